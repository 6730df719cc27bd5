//! Finds the shared library and looks at it before `ort` does, which has hung on a library that was not there.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use libloading::{Library, Symbol};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::sys::OrtApiBase;

use super::OnnxRuntime;
use crate::runtime::thread_starter;

/// Why ONNX Runtime cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// It is nowhere.
    #[error("no library at {path}", path = .looked_at.display())]
    NotFound {
        /// The place that was looked at last; the other places were not set.
        looked_at: PathBuf,
    },
    /// A library is there and does not work.
    #[error("{path} ({named_by}): {reason}", path = .path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What led there.
        named_by: &'static str,
        /// What is wrong, as the system says it.
        reason: String,
    },
    /// A library is there and too old.
    #[error("{path} ({named_by}): version {found} is too old, expected 1.{minor} or newer", path = .path.display(), minor = ort::MINOR_VERSION)]
    TooOld {
        /// Which.
        path: PathBuf,
        /// What led there.
        named_by: &'static str,
        /// Its version.
        found: String,
    },
}

/// `ort` loads a library once a process and then keeps to it, and so must we.
static LOADED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);

pub(super) fn find(
    environment: Option<&Path>,
    configured: Option<&Path>,
    lib_dir: &Path,
) -> Result<OnnxRuntime, Absent> {
    let set = |path: &&Path| !path.as_os_str().is_empty();
    let (path, named_by) = if let Some(path) = environment.filter(set) {
        (path.to_owned(), "from ORT_DYLIB_PATH")
    } else if let Some(path) = configured {
        (path.to_owned(), "as configured")
    } else {
        let path = lib_dir.join(format!("{DLL_PREFIX}onnxruntime{DLL_SUFFIX}"));
        if !path.exists() {
            return Err(Absent::NotFound { looked_at: path });
        }
        (path, "where `configs/fetch onnxruntime` puts it")
    };
    load(&path, named_by)
}

fn load(path: &Path, named_by: &'static str) -> Result<OnnxRuntime, Absent> {
    let broken = |reason: String| Absent::Broken {
        path: path.to_owned(),
        named_by,
        reason,
    };
    // A relative path would be sought beside the executable first, and a bare name in the system's folders.
    let path = &std::path::absolute(path).map_err(|error| broken(error.to_string()))?;
    // Kept until `ort` has opened the library too: opening it twice costs little, unloading it in between much.
    let (library, version) = probe(path).map_err(broken)?;
    if minor_version(&version).is_none_or(|found| found < ort::MINOR_VERSION) {
        return Err(Absent::TooOld {
            path: path.to_owned(),
            named_by,
            found: version,
        });
    }

    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*loaded {
        return Ok(runtime.clone());
    }
    thread_starter::begin();
    let environment = start(path).map_err(broken)?;
    drop(library);
    let runtime = OnnxRuntime {
        path: path.to_owned(),
        version,
        environment,
    };
    *loaded = Some(runtime.clone());
    Ok(runtime)
}

/// Minor number of a version `1.minor.patch`.
fn minor_version(version: &str) -> Option<u32> {
    version.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

/// Opens the library and reads its version.
#[allow(unsafe_code)]
fn probe(path: &Path) -> Result<(Library, String), String> {
    // SAFETY: opening a library runs its initialisers; the operator named this one, or fetched it, in order to run it. The
    // symbol has had this signature, and the struct these first two members, in every version of ONNX Runtime. Both
    // pointers are checked, and the version is a string that lives as long as the library.
    unsafe {
        let library = Library::new(path).map_err(|error| error.to_string())?;
        let entry: Symbol<'_, unsafe extern "C" fn() -> *const OrtApiBase> = library
            .get(c"OrtGetApiBase")
            .map_err(|_| "it is no ONNX Runtime: it has no OrtGetApiBase".to_owned())?;
        let base = entry()
            .as_ref()
            .ok_or_else(|| "OrtGetApiBase returned nothing".to_owned())?;
        let version = (base.GetVersionString)();
        if version.is_null() {
            return Err("it does not tell its version".to_owned());
        }
        let version = CStr::from_ptr(version).to_string_lossy().into_owned();
        Ok((library, version))
    }
}

fn start(path: &Path) -> Result<Environment, String> {
    let environment = ort::init_from(path)
        .map_err(|error| error.to_string())?
        .with_name("grid")
        .with_telemetry(false)
        // What goes wrong comes back as an error too, and is told where it is handled; a client's bad input must not
        // fill the log.
        .with_logger(Arc::new(
            |level: LogLevel, _: &str, _: &str, place: &str, text: &str| match level {
                LogLevel::Fatal => tracing::error!(target: "onnxruntime", place, "{text}"),
                _ => tracing::debug!(target: "onnxruntime", place, "{text}"),
            },
        ))
        .build()
        .map_err(|error| error.to_string())?;
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_told_with_the_place_looked_at() {
        let empty = std::env::temp_dir().join("grid-no-such-folder");
        let error = find(None, None, &empty).unwrap_err();
        assert!(
            matches!(&error, Absent::NotFound { looked_at } if looked_at.starts_with(&empty)),
            "{error}"
        );
    }

    #[test]
    fn a_named_place_without_a_library_is_an_error_and_not_passed_over() {
        let named = Path::new("/no/such/libonnxruntime.so");
        let error = find(None, Some(named), Path::new("/no/such")).unwrap_err().to_string();
        assert!(
            error.starts_with("/no/such/libonnxruntime.so (as configured): "),
            "{error}"
        );
        let error = find(Some(named), Some(Path::new("/other")), Path::new("/no/such")).unwrap_err();
        assert!(error.to_string().contains("(from ORT_DYLIB_PATH)"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_library_is_refused_with_its_name() {
        let file = std::env::temp_dir().join(format!("grid-no-library-{}", std::process::id()));
        std::fs::write(&file, b"not a library").unwrap();
        let error = find(None, Some(&file), Path::new("")).unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert!(error.to_string().contains("grid-no-library"), "{error}");
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(minor_version("1.9.1"), Some(9));
        assert_eq!(minor_version("1.28.0"), Some(28));
        assert_eq!(minor_version("2.0.0"), None);
        let old = Absent::TooOld {
            path: "/lib/x.so".into(),
            named_by: "as configured",
            found: "1.9.1".to_owned(),
        };
        assert_eq!(
            old.to_string(),
            "/lib/x.so (as configured): version 1.9.1 is too old, expected 1.22 or newer"
        );
    }
}
