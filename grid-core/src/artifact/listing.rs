//! The list of a content's files.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::path::{InvalidPath, ListedPath, VERSION_FOLDER};
use crate::cluster::Digest;
use crate::wire::codec::{self, CodecError};

/// Most files in a content. Exporters that write a file for each tensor make some hundreds.
pub const MAX_FILES: usize = 4096;

/// In front of every encoded listing: a listing of another form is another number, and another digest.
const FORMAT: u8 = 1;

/// One file of a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    /// Where it lies in the content.
    pub path: ListedPath,
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub digest: Digest,
}

/// The files of a content, sorted by path. It is encoded in one way only, and the digest of that is the content's name.
///
/// There is at least one file in the version's folder; no file lies where another one needs a folder; the sizes add up to a
/// number. A decoded one was checked for all of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    files: Vec<ListedFile>,
    bytes: u64,
}

/// Files that are no content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidListing {
    /// A path is none.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// There are too many.
    #[error("expected at most {MAX_FILES} files, found {0}")]
    TooMany(usize),
    /// The version's folder is empty.
    #[error("expected at least one file in `{VERSION_FOLDER}/`")]
    Empty,
    /// They are not sorted, or one is there twice.
    #[error("expected each file once and sorted by path, found `{0}` after its place")]
    Unsorted(ListedPath),
    /// A path is a file and a folder.
    #[error("`{0}` lies in a file")]
    InFile(ListedPath),
    /// The sizes add up to more than there can be.
    #[error("the sizes of the files are too large to add up")]
    TooLarge,
    /// An empty file has a digest that empty files do not have.
    #[error("`{0}` is empty and has the digest of something else")]
    NotEmpty(ListedPath),
    /// It is of a form that this node does not know.
    #[error("expected a listing of format {FORMAT}, found {0}")]
    Format(u8),
    /// It is the listing of another content than the one that was asked for.
    #[error("expected the listing of content {expected}, found that of {found}")]
    Other {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// It cannot be decoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl Listing {
    /// The listing of these files, in any order.
    ///
    /// # Errors
    /// When they are no content.
    pub fn new(mut files: Vec<ListedFile>) -> Result<Self, InvalidListing> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self::checked(files)
    }

    fn checked(files: Vec<ListedFile>) -> Result<Self, InvalidListing> {
        if files.len() > MAX_FILES {
            return Err(InvalidListing::TooMany(files.len()));
        }
        if let Some(pair) = files.windows(2).find(|pair| pair[0].path >= pair[1].path) {
            return Err(InvalidListing::Unsorted(pair[1].path.clone()));
        }
        // Sorted, so the manifest, which alone lies in no folder, comes before everything else.
        if files.last().is_none_or(|last| last.path.folders().next().is_none()) {
            return Err(InvalidListing::Empty);
        }
        let is_file = |path: &str| files.binary_search_by(|file| file.path.as_str().cmp(path)).is_ok();
        if let Some(file) = files.iter().find(|file| file.path.folders().any(is_file)) {
            return Err(InvalidListing::InFile(file.path.clone()));
        }
        // Nothing could be fetched that would make such a file right.
        let nothing = Digest::of(b"");
        if let Some(file) = files.iter().find(|file| file.bytes == 0 && file.digest != nothing) {
            return Err(InvalidListing::NotEmpty(file.path.clone()));
        }
        let bytes = files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.bytes));
        let bytes = bytes.ok_or(InvalidListing::TooLarge)?;
        Ok(Self { files, bytes })
    }

    /// The listing of the content of that name, from a peer or a disk.
    ///
    /// # Errors
    /// When the bytes are no listing, or that of another content.
    pub fn decode(content: Digest, bytes: &[u8]) -> Result<Self, InvalidListing> {
        let listing: Self = codec::decode("a content's listing", bytes)?;
        match listing.digest() {
            found if found != content => Err(InvalidListing::Other {
                expected: content,
                found,
            }),
            _ => Ok(listing),
        }
    }

    /// Its bytes, for peers and disks.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The name of the content.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// The files, sorted by path.
    pub fn files(&self) -> &[ListedFile] {
        &self.files
    }

    /// Size of all files together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Serialize for Listing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (FORMAT, &self.files).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Listing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (format, files) = <(u8, Vec<ListedFile>)>::deserialize(deserializer)?;
        let listing = match format {
            FORMAT => Self::checked(files),
            other => Err(InvalidListing::Format(other)),
        };
        listing.map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str, bytes: u64) -> ListedFile {
        let digest = Digest::of(&vec![0; if bytes == 0 { 0 } else { 1 }]);
        let path = path.parse().unwrap();
        ListedFile { path, bytes, digest }
    }

    fn listing(paths: &[&str]) -> Result<Listing, InvalidListing> {
        Listing::new(paths.iter().map(|path| file(path, 1)).collect())
    }

    #[test]
    fn a_listing_reads_back_and_its_digest_depends_on_everything_in_it() {
        let one = Listing::new(vec![file("version/model.onnx", 7), file("model.toml", 0)]).unwrap();
        assert_eq!(one.files()[0].path.as_str(), "model.toml", "sorted");
        assert_eq!(one.bytes(), 7);
        assert_eq!(Listing::decode(one.digest(), &one.encode()), Ok(one.clone()));
        let renamed = listing(&["version/other.onnx"]).unwrap();
        let without = listing(&["version/model.onnx"]).unwrap();
        let larger = Listing::new(vec![file("version/model.onnx", 8)]).unwrap();
        let digests = [&one, &renamed, &without, &larger].map(Listing::digest);
        assert!((1..4).all(|at| !digests[..at].contains(&digests[at])));
    }

    #[test]
    fn the_name_of_a_content_stays_what_it_was_in_earlier_releases() {
        let listing = Listing::new(vec![file("model.toml", 0), file("version/model.onnx", 300)]).unwrap();
        let mut bytes = vec![1, 2, 10];
        bytes.extend_from_slice(b"model.toml\0");
        bytes.extend_from_slice(&Digest::of(b"").0);
        bytes.push(18);
        bytes.extend_from_slice(b"version/model.onnx\xfb\x2c\x01");
        bytes.extend_from_slice(&Digest::of(b"\0").0);
        assert_eq!(listing.encode(), bytes);
    }

    #[test]
    fn files_that_are_no_content_are_refused_with_the_reason() {
        assert_eq!(listing(&[]), Err(InvalidListing::Empty));
        assert_eq!(listing(&["model.toml"]), Err(InvalidListing::Empty));
        let twice = listing(&["version/a", "version/a"]).unwrap_err();
        assert_eq!(twice, InvalidListing::Unsorted("version/a".parse().unwrap()));
        // `-` sorts before `/`, so the two are no neighbours.
        let nested = listing(&["version/a", "version/a-b", "version/a/b/c"]).unwrap_err();
        assert_eq!(nested, InvalidListing::InFile("version/a/b/c".parse().unwrap()));
        let huge = Listing::new(vec![file("version/a", u64::MAX), file("version/b", 1)]);
        assert_eq!(huge, Err(InvalidListing::TooLarge));
        let many = (0..=MAX_FILES).map(|index| file(&format!("version/{index}"), 1));
        assert_eq!(
            Listing::new(many.collect()),
            Err(InvalidListing::TooMany(MAX_FILES + 1))
        );
        let mut hollow = file("version/a", 1);
        hollow.bytes = 0;
        assert!(matches!(Listing::new(vec![hollow]), Err(InvalidListing::NotEmpty(_))));
    }

    #[test]
    fn what_a_peer_sends_is_checked_as_what_is_found_here() {
        let refused = |bytes: &[u8], reason: &str| {
            let error = Listing::decode(Digest::of(bytes), bytes).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        };
        let (a, b) = (file("version/a", 1), file("version/b", 1));
        refused(&codec::encode(&(FORMAT, vec![&b, &a])), "sorted by path");
        refused(&codec::encode(&(2u8, vec![&a])), "found 2");
        refused(
            &codec::encode(&(FORMAT, vec![("../../etc/passwd", 1u64, a.digest)])),
            "relative path",
        );
        let other = Listing::new(vec![a.clone()]).unwrap();
        let error = Listing::decode(Digest::of(b""), &other.encode()).unwrap_err();
        assert!(matches!(error, InvalidListing::Other { .. }), "{error}");
    }

    #[test]
    fn the_same_listing_in_other_bytes_is_the_same_content() {
        let one = listing(&["version/a"]).unwrap();
        let mut bytes = one.encode();
        // The number of files as a two-byte integer, which the codec reads too.
        bytes.splice(1..2, [251, 1, 0]);
        assert_eq!(Listing::decode(one.digest(), &bytes), Ok(one));
    }

    #[test]
    fn the_largest_listing_can_be_decoded() {
        let folder = "x".repeat(255);
        let path = |index: usize| format!("version/{folder}/{index:0>248}");
        let files: Vec<_> = (0..MAX_FILES).map(|index| file(&path(index), 1 << 40)).collect();
        assert_eq!(files[0].path.as_str().len(), 512);
        let largest = Listing::new(files).unwrap();
        assert_eq!(Listing::decode(largest.digest(), &largest.encode()), Ok(largest));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Listing::decode(Digest([0; 32]), &bytes);
        }

        #[test]
        fn a_listing_with_bytes_changed_is_refused_or_another_content(
            names in proptest::collection::btree_set("[a-c/.]{1,5}", 1..6),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let paths: Vec<_> = names.iter().map(|name| format!("version/{name}")).collect();
            let files = paths.iter().filter_map(|path| Some(ListedFile {
                path: path.parse().ok()?, bytes: 300, digest: Digest::of(path.as_bytes()),
            }));
            let Ok(listing) = Listing::new(files.collect()) else { return Ok(()) };
            let mut bytes = listing.encode();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(read) = Listing::decode(listing.digest(), &bytes) {
                prop_assert_eq!(&read, &listing);
            }
            if let Ok(read) = codec::decode::<Listing>("listing", &bytes) {
                prop_assert_eq!(Listing::new(read.files().to_vec()), Ok(read));
            }
        }
    }
}
