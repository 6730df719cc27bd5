use std::fs;

use super::*;

/// A repository in a folder of its own, gone with it.
pub(super) struct Repository(tempfile::TempDir);

impl Repository {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            repository.write(path, text);
        }
        repository
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn folder(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub(super) fn scan(&self) -> Scan {
        scan(&[self.0.path().to_owned()])
    }

    /// The problems as shown, the repository's own path cut out.
    fn problems(&self) -> Vec<String> {
        let own = format!("{}/", self.0.path().display());
        self.scan()
            .problems
            .iter()
            .map(|problem| problem.to_string().replace(&own, ""))
            .collect()
    }
}

fn names(scan: &Scan) -> Vec<&str> {
    scan.models.keys().map(ModelName::as_str).collect()
}

#[test]
fn models_versions_and_manifests_are_found_and_other_things_are_not() {
    let repository = Repository::new(&[
        ("README.md", "about"),
        (".git/1/model.onnx", "hidden"),
        ("a/1/model.onnx", "x"),
        ("a/2/model.onnx", "xx"),
        ("a/10/other.onnx", "xxx"),
        ("a/docs/readme.md", "about"),
        ("a/sample.json", "{}"),
        ("b/7/model.onnx", "x"),
        ("b/7/test.onnx", "beside the one that is named as expected"),
        ("b/model.toml", "instances = 3\ndefault_version = 7"),
    ]);
    let scan = repository.scan();
    assert_eq!(scan.problems, []);
    assert_eq!(names(&scan), ["a", "b"]);
    let (a, b) = (&scan.models["a"], &scan.models["b"]);
    assert_eq!(a.versions.keys().collect::<Vec<_>>(), [&1, &2, &10]);
    assert_eq!(a.versions[&10].path, repository.path("a/10/other.onnx"));
    assert_eq!(a.manifest, Manifest::default());
    assert_eq!(b.versions[&7].path, repository.path("b/7/model.onnx"));
    assert_eq!((b.manifest.instances, b.manifest.default_version), (Some(3), Some(7)));
    assert_eq!(b.folder, repository.path("b"));
}

#[test]
fn the_size_of_a_version_counts_its_external_data() {
    let repository = Repository::new(&[
        ("a/1/model.onnx", "1"),
        ("a/1/model.onnx.data", "22"),
        ("a/1/model.onnx_data", "333"),
        ("a/1/weights.bin", "4444"),
        ("a/1/notes.txt", "not these"),
    ]);
    assert_eq!(repository.scan().models["a"].versions[&1].bytes, 10);
}

#[test]
fn a_version_is_as_new_as_the_newest_of_its_files() {
    let repository = Repository::new(&[("a/1/model.onnx", "1"), ("a/1/weights.bin", "2")]);
    let modified = || repository.scan().models["a"].modified[&1].unwrap();
    let later = modified() + std::time::Duration::from_secs(60);
    let weights = fs::File::options()
        .append(true)
        .open(repository.path("a/1/weights.bin"));
    weights.unwrap().set_modified(later).unwrap();
    assert_eq!(modified(), later);
}

#[test]
fn what_a_problem_may_hide_is_not_known_to_be_gone() {
    let repository = Repository::new(&[("a/model.toml", "nonsense"), ("b/1/model.onnx", "x")]);
    let problems = repository.scan().problems;
    let hidden = |problems: &[StoreProblem], name| problems.iter().any(|problem| problem.may_hide(name));
    assert!(hidden(&problems, "a") && !hidden(&problems, "c"), "{problems:?}");
    let missing = scan(&[repository.path("no"), repository.0.path().to_owned()]).problems;
    assert!(
        hidden(&missing, "c"),
        "it may lie in the repository that cannot be read"
    );
}

#[test]
fn a_missing_repository_is_named_and_the_others_are_served() {
    let good = Repository::new(&[("a/1/model.onnx", "x")]);
    let scan = scan(&[PathBuf::from("no/such/models"), good.0.path().to_owned()]);
    assert_eq!(names(&scan), ["a"]);
    let [problem] = &scan.problems[..] else {
        panic!("{:?}", scan.problems)
    };
    let here = std::env::current_dir().unwrap();
    let shown = problem.to_string();
    assert!(
        shown.starts_with("no/such/models: expected a folder of models: "),
        "{shown}"
    );
    assert!(shown.ends_with(&format!("(looked from {})", here.display())), "{shown}");
}

#[test]
fn a_bad_manifest_hides_its_own_model_only() {
    let repository = Repository::new(&[
        ("bad/1/model.onnx", "x"),
        ("bad/model.toml", "\ninstance = 1"),
        ("good/1/model.onnx", "x"),
        ("latin/1/model.onnx", "x"),
        ("odd/1/model.onnx", "x"),
    ]);
    fs::write(repository.path("latin/model.toml"), b"description = \"caf\xe9\"").unwrap();
    repository.folder("odd/model.toml");
    assert_eq!(names(&repository.scan()), ["good"]);
    let problems = repository.problems();
    assert!(
        problems[0].starts_with("bad/model.toml:2: instance: unknown key; "),
        "{problems:?}"
    );
    assert!(problems[0].ends_with("did you mean `instances`?"), "{problems:?}");
    assert_eq!(
        problems[1..],
        [
            "latin/model.toml: expected a manifest: not UTF-8 text",
            "odd/model.toml: expected a manifest: not a file",
        ]
    );
}

#[test]
fn a_version_that_is_wrong_hides_no_other() {
    let repository = Repository::new(&[
        ("a/1/model.onnx", "x"),
        ("a/01/model.onnx", "x"),
        ("a/0/model.onnx", "x"),
    ]);
    repository.folder("a/2");
    repository.write("a/3/x.onnx", "");
    repository.write("a/3/y.onnx", "");
    repository.folder("a/99999999999999999999");
    assert_eq!(repository.scan().models["a"].versions.keys().collect::<Vec<_>>(), [&1]);
    let name = "expected a version's folder to be named by a whole number from 1 to 18446744073709551615, \
                without leading zeros";
    assert_eq!(
        repository.problems(),
        [
            format!("a/0: {name}"),
            format!("a/01: {name}"),
            "a/2: no model file; expected a/2/model.onnx".to_owned(),
            "a/3: expected model.onnx or one file of another name, found a/3/x.onnx and a/3/y.onnx".to_owned(),
            format!("a/99999999999999999999: {name}"),
        ]
    );
}

#[test]
fn a_model_without_a_version_is_told_where_one_should_be() {
    let repository = Repository::new(&[("a/model.toml", ""), ("b/model.onnx", "x"), ("a b/1/model.onnx", "x")]);
    repository.folder("c/1");
    assert_eq!(names(&repository.scan()), [""; 0]);
    assert_eq!(
        repository.problems(),
        [
            "a b: expected a model's folder to be named by letters, digits, '.', '_' or '-', at most 128 of them",
            "a: no version; expected a/1/model.onnx",
            "b: no version; expected b/1/model.onnx, found b/model.onnx",
            "c/1: no model file; expected c/1/model.onnx",
        ]
    );
}

#[test]
fn a_model_in_two_repositories_is_served_from_neither() {
    let left = Repository::new(&[("a/1/model.onnx", "x"), ("b/1/model.onnx", "x")]);
    let right = Repository::new(&[("a/1/model.onnx", "x"), ("a/model.toml", "nonsense")]);
    let scan = scan(&[left.0.path().to_owned(), right.0.path().to_owned()]);
    assert_eq!(names(&scan), ["b"]);
    let shown: Vec<_> = scan.problems.iter().map(StoreProblem::to_string).collect();
    let (a, b) = (left.path("a"), right.path("a"));
    assert_eq!(
        shown,
        [format!(
            "a: expected in one repository, found in {} and {}",
            a.display(),
            b.display()
        )]
    );
}

#[test]
fn a_default_version_must_be_there() {
    let repository = Repository::new(&[
        ("a/1/model.onnx", "x"),
        ("a/3/model.onnx", "x"),
        ("a/model.toml", "# which\ndefault_version = 2"),
    ]);
    assert_eq!(names(&repository.scan()), [""; 0]);
    assert_eq!(
        repository.problems(),
        ["a/model.toml:2: default_version: expected one of the versions in the repository (1, 3), found the integer 2"]
    );
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_those_that_lead_nowhere_are_named() {
    use std::os::unix::fs::symlink;

    let elsewhere = Repository::new(&[("1/model.onnx", "xyz"), ("2/file", "x")]);
    let repository = Repository::new(&[("gone/2/model.onnx", "x")]);
    symlink(elsewhere.0.path(), repository.path("linked")).unwrap();
    symlink("file", elsewhere.path("2/model.onnx")).unwrap();
    symlink("nowhere", repository.path("dangling")).unwrap();
    symlink("nowhere", repository.path("gone/1")).unwrap();
    symlink("nowhere", repository.path("gone/notes")).unwrap();
    symlink("nowhere", repository.path("gone/2/other.onnx")).unwrap();
    let scan = repository.scan();
    assert_eq!(names(&scan), ["gone", "linked"]);
    assert_eq!(scan.models["linked"].versions.len(), 2);
    assert_eq!(scan.models["linked"].versions[&1].bytes, 3);
    let problems = repository.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("dangling: ") && problems[1].starts_with("gone/1: "),
        "{problems:?}"
    );
}

#[test]
fn every_config_in_the_tree_is_right_and_finds_its_models() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut checked = 0;
    for folder in [configs.join("three-nodes"), configs] {
        let files = entries(&folder).unwrap();
        for file in files.iter().filter(|path| has_extension(path, "toml")) {
            let text = fs::read_to_string(file).unwrap();
            let mut config = grid_core::config::parse(&file.display().to_string(), &text, [])
                .unwrap_or_else(|problems| panic!("{problems:#?}"));
            config.resolve(&folder);
            assert_eq!(scan(&config.models.repositories).problems, [], "{}", file.display());
            checked += 1;
        }
    }
    assert!(checked >= 5, "the quickstart, streams and three nodes: {checked}");
}
