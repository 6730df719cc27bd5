//! Contents of model versions: what they consist of, and how one is fetched from peers.
//!
//! A content is named by the digest of its [`Listing`], which names the digest of each file. So whoever knows the name
//! can check everything that any peer says: the listing against the name, the files against the listing. The version
//! number is no part of it: the same files under two versions are one content.
//!
//! [`Fetch`] decides which peer is asked for which chunk; it neither sends nor writes.

mod fetch;
mod listing;
mod path;

pub use fetch::{CHUNK, ChunkRequest, Fetch, FetchError, FetchLimits, Step};
pub use listing::{InvalidListing, ListedFile, Listing, MAX_FILES};
pub use path::{InvalidPath, ListedPath, MANIFEST_PATH, MAX_PATH, VERSION_FOLDER};
