//! The promises of the config as a whole; units and words are tested beside their code.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

mod hostile;

const MINIMAL: &str = "[models]\nrepository = \"models\"\n";

fn config(text: &str) -> NodeConfig {
    parse("a.toml", text, []).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

#[test]
fn a_config_knows_where_its_keys_were_set() {
    let listen = [("GRID__LOG__LEVEL".to_owned(), "warn".to_owned())];
    let text = format!("http.listen = '127.0.0.1:1'\n{MINIMAL}");
    let places = parse("a.toml", &text, listen).unwrap().places;
    let place = |key| places.origin(key).within("a.toml");
    assert_eq!(place("http.listen"), "a.toml:1");
    assert_eq!(place("models.repository"), "a.toml:3");
    assert_eq!(place("log.level"), "environment variable GRID__LOG__LEVEL");
    assert_eq!(place("memory.budget"), "a.toml");
}

fn shown(problems: Vec<Diagnostic>) -> Vec<String> {
    problems.iter().map(Diagnostic::to_string).collect()
}

/// What is wrong with the minimal config when `text` stands before it.
fn wrong(text: &str) -> Vec<String> {
    shown(parse("a.toml", &format!("{text}\n{MINIMAL}"), []).expect_err(text))
}

#[test]
fn a_config_that_names_its_models_gets_the_defaults_for_the_rest() {
    let mut expected = NodeConfig::default();
    expected.models.repositories = vec![PathBuf::from("models")];
    assert_eq!(config(MINIMAL), expected);
    assert_eq!(expected.http.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(expected.limits.timeout, Duration::from_secs(30));
}

#[test]
fn every_key_is_read_into_its_setting() {
    let text = r#"
        node = { name = "left-1", data_dir = "d" }
        http.listen = "[::1]:9000"
        http.workers = 3
        http.max_body = "1MiB"
        http.admin_token = "0123456789abcdef"
        http.max_connections = 0x10
        http.drain_timeout = "0ms"
        grpc.listen = "[::]:9001"
        [grid]
        name = "test"
        listen = "0.0.0.0:7000"
        advertise = "10.0.0.7:7001"
        seeds = ["node-b:7000", "[::1]:7000"]
        key_file = "cluster.key"
        zone = "left"
        compute = 400
        grace = "7s"
        [models]
        repository = ["a", "b"]
        load = ["m", "n"]
        [memory]
        budget = "1.5GiB"
        [compute]
        threads = 2
        inline_below = "0us"
        [runtime]
        onnxruntime = "lib/libonnxruntime.so"
        prefer = "rten"
        [limits]
        queue = 7
        timeout = "2s"
        max_timeout = "3s"
        [sequences]
        max = 5
        life = "2s"
        window = 3
        window_bytes = "1KiB"
        [websocket]
        max_in_flight = 9
        max_buffered = "2KiB"
        idle_timeout = "1s"
        ping_interval = "2s"
        pong_timeout = "3s"
        send_timeout = "4s"
        allow_origins = ["https://app.example.org"]
        [supervision]
        max_restarts = 0
        window = "1m"
        backoff = "10ms"
        max_backoff = "1s"
        [log]
        format = "json"
        level = "warn,grid_node=debug"
    "#;
    let expected = NodeConfig {
        node: NodeSettings {
            name: "left-1".parse().unwrap(),
            data_dir: "d".into(),
        },
        http: HttpSettings {
            listen: "[::1]:9000".parse().unwrap(),
            workers: Some(3),
            max_body: 1 << 20,
            admin_token: Some(Secret::new("0123456789abcdef")),
            max_connections: 16,
            drain_timeout: Duration::ZERO,
        },
        grpc: GrpcSettings {
            listen: Some("[::]:9001".parse().unwrap()),
        },
        grid: GridSettings {
            name: "test".parse().unwrap(),
            listen: Some("0.0.0.0:7000".parse().unwrap()),
            advertise: Some("10.0.0.7:7001".parse().unwrap()),
            seeds: vec!["node-b:7000".to_owned(), "[::1]:7000".to_owned()],
            key: None,
            key_file: Some("cluster.key".into()),
            zone: "left".to_owned(),
            compute: Some(400),
            grace: Duration::from_secs(7),
        },
        models: ModelSettings {
            repositories: vec!["a".into(), "b".into()],
            load: LoadPolicy::Only(vec!["m".parse().unwrap(), "n".parse().unwrap()]),
        },
        memory: MemorySettings { budget: Some(3 << 29) },
        compute: ComputeSettings {
            threads: Some(2),
            inline_below: Duration::ZERO,
        },
        runtime: RuntimeSettings {
            onnxruntime: Some("lib/libonnxruntime.so".into()),
            prefer: Some("rten".to_owned()),
        },
        limits: LimitSettings {
            queue: 7,
            timeout: Duration::from_secs(2),
            max_timeout: Duration::from_secs(3),
        },
        sequences: SequenceSettings {
            max: 5,
            life: Duration::from_secs(2),
            window: 3,
            window_bytes: 1024,
        },
        websocket: WebSocketSettings {
            max_in_flight: 9,
            max_buffered: 2048,
            idle_timeout: Duration::from_secs(1),
            ping_interval: Duration::from_secs(2),
            pong_timeout: Duration::from_secs(3),
            send_timeout: Duration::from_secs(4),
            allow_origins: vec!["https://app.example.org".to_owned()],
        },
        supervision: SupervisionSettings {
            max_restarts: 0,
            window: Duration::from_secs(60),
            backoff: Duration::from_millis(10),
            max_backoff: Duration::from_secs(1),
        },
        log: LogSettings {
            format: LogFormat::Json,
            level: "warn,grid_node=debug".to_owned(),
        },
        places: Places::default(),
    };
    assert_eq!(config(text), expected);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
    assert_eq!(
        wrong("[http]\nlistne = \"127.0.0.1:1\""),
        [
            "a.toml:2: http.listne: unknown key; expected one of `listen`, `workers`, `max_body`, `admin_token`, \
          `max_connections`, `drain_timeout`; did you mean `listen`?"
        ]
    );
    assert_eq!(
        wrong("[memory]\n\nbanana = 1"),
        ["a.toml:3: memory.banana: unknown key; expected `budget`"]
    );
    assert_eq!(
        wrong("[htpt]\nlisten = \"127.0.0.1:1\""),
        [
            "a.toml:1: htpt: unknown key; expected one of `node`, `grid`, `http`, `grpc`, `models`, `memory`, `compute`, \
          `runtime`, `limits`, `sequences`, `websocket`, `supervision`, `log`; did you mean `http`?"
        ]
    );
}

#[test]
fn a_node_of_a_grid_says_who_and_where_it_is_and_has_a_key() {
    let cases = [
        (
            "[grid]\nseeds = [\"a:7000\"]",
            vec!["a.toml:1: grid.listen: expected an address, where the node is one of a grid, found `seeds` alone"],
        ),
        (
            "[grid]\nlisten = \"0.0.0.0:7000\"",
            vec![
                "a.toml: node: expected a `name` that no other node of its grid has, found nothing",
                "a.toml:1: grid.advertise: expected the address that other nodes reach this one by, as `listen` is that \
                 of all interfaces, found nothing",
                "a.toml:1: grid.key_file: expected a file with the cluster key, made by `grid-node key`, or the key itself \
                 in `key`, found nothing",
            ],
        ),
        (
            "node.name = \"a\"\n[grid]\nlisten = \"127.0.0.1:7000\"\nkey_file = \"k\"\nseeds = [\"7000\"]",
            vec![
                "a.toml:5: grid.seeds: expected a host and port such as \"10.0.0.7:7000\" or \"node-b:7000\", found \
                 \"7000\"",
            ],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(wrong(text), expected, "{text}");
    }
}

#[test]
fn a_value_of_the_wrong_type_or_form_is_refused_with_both() {
    let cases = [
        (
            "memory.budget = \"4 potatoes\"",
            "memory.budget: expected a size such as \"4GiB\", found \"4 potatoes\"",
        ),
        (
            "memory.budget = 4",
            "memory.budget: expected a size such as \"4GiB\", found the integer 4",
        ),
        (
            "memory.budget = \"0B\"",
            "memory.budget: expected a size of at least 1B, found \"0B\"",
        ),
        (
            "memory.budget = \"99999999999GiB\"",
            "memory.budget: expected a size of at most 16777215TiB, found \"99999999999GiB\"",
        ),
        (
            "memory = 4",
            "memory: expected a table, written `[memory]`, found the integer 4",
        ),
        (
            "http.listen = \"localhost\"",
            "http.listen: expected an address and port such as \"127.0.0.1:8000\", found \"localhost\"",
        ),
        (
            "http.workers = 0",
            "http.workers: expected a whole number from 1 to 1024, found the integer 0",
        ),
        (
            "http.workers = -1",
            "http.workers: expected a whole number from 1 to 1024, found the integer -1",
        ),
        (
            "http.workers = 1e3",
            "http.workers: expected a whole number from 1 to 1024, found the number 1000",
        ),
        (
            "http.workers = true",
            "http.workers: expected a whole number from 1 to 1024, found the boolean true",
        ),
        (
            "http.drain_timeout = 30",
            "http.drain_timeout: expected a duration such as \"250ms\", found the integer 30",
        ),
        (
            "http.drain_timeout = \"-1s\"",
            "http.drain_timeout: expected a duration such as \"250ms\", found \"-1s\"",
        ),
        (
            "http.drain_timeout = nan",
            "http.drain_timeout: expected a duration such as \"250ms\", found the number NaN",
        ),
        (
            "http.drain_timeout = \"9999999d\"",
            "http.drain_timeout: expected a duration of at most 365d, found \"9999999d\"",
        ),
        (
            "limits.timeout = \"0s\"",
            "limits.timeout: expected a duration of at least 1ms, found \"0s\"",
        ),
        (
            "limits.timeout = \"10m\"",
            "limits.timeout: expected at most `max_timeout` (5m), found \"10m\"",
        ),
        (
            "supervision.backoff = \"1m\"",
            "supervision.backoff: expected at most `max_backoff` (10s), found \"1m\"",
        ),
        (
            "log.format = \"jsno\"",
            "log.format: expected \"text\" or \"json\", found \"jsno\"; did you mean `json`?",
        ),
        (
            "log.level = \" \"",
            "log.level: expected a text that is not empty, found \" \"",
        ),
        (
            "runtime.prefer = \"tract\"",
            "runtime.prefer: expected \"onnxruntime\" or \"rten\", found \"tract\"",
        ),
        (
            "node.name = \"a b\"",
            "node.name: expected a name of letters, digits, '.', '_' or '-', found \"a b\"",
        ),
        ("node.data_dir = \"\"", "node.data_dir: expected a path, found \"\""),
    ];
    for (text, expected) in cases {
        assert_eq!(wrong(text), [format!("a.toml:1: {expected}")], "{text}");
    }
}

#[test]
fn integers_of_any_length_are_out_of_range_and_no_more() {
    for digits in [
        "9223372036854775808",
        "340282366920938463463374607431768211456",
        &"9".repeat(1000),
    ] {
        let problems = wrong(&format!("[limits]\nqueue = {digits}"));
        assert!(problems[0].starts_with("a.toml:2: "), "{problems:?}");
        assert!(problems[0].len() < 200, "{problems:?}");
    }
}

#[test]
fn everything_that_is_wrong_is_reported_at_once_in_the_order_of_the_file() {
    let text = "[http]\nlisten = 1\nworker = 2\n[limits]\nqueue = 0\n";
    assert_eq!(
        shown(parse("b.toml", text, []).unwrap_err()),
        [
            "b.toml: models.repository: missing; expected a path or a list of paths",
            "b.toml:2: http.listen: expected an address and port such as \"127.0.0.1:8000\", found the integer 1",
            "b.toml:3: http.worker: unknown key; expected one of `listen`, `workers`, `max_body`, `admin_token`, \
             `max_connections`, `drain_timeout`; did you mean `workers`?",
            "b.toml:5: limits.queue: expected a whole number from 1 to 1000000, found the integer 0",
        ]
    );
}

#[test]
fn text_that_is_no_toml_is_refused_by_line() {
    let problems = parse("a.toml", "[http]\nlisten = \n[http]\n", []).unwrap_err();
    assert_eq!(problems[0].line(), Some(2), "{problems:?}");
    assert!(
        problems[0].to_string().starts_with("a.toml:2: not valid TOML: "),
        "{problems:?}"
    );
    let large = "#".repeat((1 << 20) + 1);
    assert_eq!(
        shown(parse("a.toml", &large, []).unwrap_err()),
        ["a.toml: not valid TOML: expected a file of at most 1048576 bytes, found 1048577"]
    );
}

#[test]
fn repositories_and_models_to_load_are_one_or_many() {
    assert_eq!(
        config("models = { repository = \"a\", load = \"none\" }").models.load,
        LoadPolicy::None
    );
    assert_eq!(
        config("models = { repository = [\"a\", \"b\"] }")
            .models
            .repositories
            .len(),
        2
    );
    let wrong = |text| shown(parse("a.toml", text, []).unwrap_err());
    assert_eq!(
        wrong("[models]\nrepository = []"),
        ["a.toml:2: models.repository: expected at least one path, found an empty list"]
    );
    assert_eq!(
        wrong("[models]\nrepository = [\n\"a\",\n5]"),
        ["a.toml:4: models.repository: expected a path, found the integer 5"],
        "the line of the element, not of the key"
    );
    assert_eq!(
        wrong("[models]\nrepository = [\"a\", \"a\"]"),
        ["a.toml:2: models.repository: expected each path once, found \"a\" twice"]
    );
    assert_eq!(
        wrong("[models]\nrepository = \"a\"\nload = \"al\""),
        ["a.toml:3: models.load: expected \"all\", \"none\" or a list of model names, found \"al\""]
    );
}

#[test]
fn a_shorter_bound_also_bounds_the_default_below_it() {
    let config = config(&format!(
        "{MINIMAL}[limits]\nmax_timeout = \"10s\"\n[supervision]\nmax_backoff = \"5ms\""
    ));
    assert_eq!(config.limits.timeout, Duration::from_secs(10));
    assert_eq!(config.supervision.backoff, Duration::from_millis(5));
    assert_eq!(
        wrong("[limits]\ntimeout = \"10m\"\nmax_timeout = 1").len(),
        1,
        "a wrong bound is reported, and not compared with"
    );
}

#[test]
fn a_secret_stands_in_no_error_and_in_no_debug_output() {
    let config = config(&format!("{MINIMAL}[http]\nadmin_token = \"open sesame open sesame\""));
    assert!(!format!("{config:?}").contains("sesame"));
    let token = config.http.admin_token.unwrap();
    assert!(token.matches(b"open sesame open sesame"));
    for other in [
        "",
        "open sesame",
        "open sesame open sesamf",
        "open sesame open sesameopen sesame open sesame",
    ] {
        assert!(!token.matches(other.as_bytes()), "{other}");
    }
    assert_eq!(
        wrong("http.admin_token = \"sesame\""),
        ["a.toml:1: http.admin_token: expected a text of at least 16 characters, found one of 6"]
    );
    assert!(!wrong("http.admin_token = 1234567812345678")[0].contains("1234"));
    let variable = ("GRID__HTTP__ADMIN_TOKEN".to_owned(), "sesame".to_owned());
    let problems = shown(parse("a.toml", MINIMAL, [variable]).unwrap_err());
    assert!(!problems[0].contains("sesame"), "{problems:?}");
}

#[test]
fn relative_paths_belong_to_the_folder_of_the_config() {
    let text = "[node]\ndata_dir = \"../.grid/data\"\n[models]\nrepository = [\"models\", \"/abs\"]\n[runtime]\n\
                onnxruntime = \"libonnxruntime.so\"\n";
    let mut config = config(text);
    config.resolve(Path::new("configs"));
    assert_eq!(config.node.data_dir, Path::new("configs/../.grid/data"));
    assert_eq!(
        config.models.repositories,
        [PathBuf::from("configs/models"), PathBuf::from("/abs")]
    );
    assert_eq!(
        config.runtime.onnxruntime.as_deref(),
        Some(Path::new("libonnxruntime.so")),
        "the system looks for it"
    );
    config.runtime.onnxruntime = Some("./libonnxruntime.so".into());
    config.resolve(Path::new("/c"));
    assert_eq!(
        config.runtime.onnxruntime.as_deref(),
        Some(Path::new("/c/./libonnxruntime.so"))
    );
}
