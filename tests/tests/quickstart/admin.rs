//! Who may load and unload.

use grid_tests::load::http_request;
use grid_tests::process::{NodeProcess, exchange};

use super::{models, status, without_onnxruntime};

const TOKEN: &str = "a token for this test";

fn call(node: &NodeProcess, what: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let path = format!("/v2/repository/models/digits/{what}");
    let headers = [headers, &[("Connection", "close")]].concat();
    let response = exchange(node.address(), &http_request("POST", &path, &headers, b"")).expect("an answer");
    (response.status, response.text())
}

#[test]
fn with_a_token_in_the_config_loading_needs_that_token() {
    let node = without_onnxruntime(&models(), "")
        .env("GRID__HTTP__ADMIN_TOKEN", TOKEN)
        .start()
        .expect("a node");
    let right = format!("Bearer {TOKEN}");
    for what in ["unload", "load"] {
        let (without, text) = call(&node, what, &[]);
        assert_eq!(without, 401, "{text}");
        assert!(text.contains("Authorization: Bearer"), "{text}");
        let (wrong, text) = call(&node, what, &[("Authorization", "Bearer another token")]);
        assert_eq!(wrong, 403, "{text}");
        assert!(!text.contains(TOKEN), "{text}");
        let foreign = [
            ("Authorization", right.as_str()),
            ("Origin", "http://elsewhere.example"),
        ];
        let (foreign, text) = call(&node, what, &foreign);
        assert_eq!(foreign, 403, "{text}");
        assert!(text.contains("origins"), "{text}");
        let ready = if what == "unload" { 200 } else { 503 };
        assert_eq!(
            status(&node, "/v2/models/digits/ready"),
            Some(ready),
            "a refused call did something"
        );
        let (allowed, text) = call(&node, what, &[("Authorization", &right)]);
        assert_eq!(allowed, 200, "{text}");
    }
    assert_eq!(status(&node, "/v2/models/digits/ready"), Some(200));
    assert!(!node.output().contains(TOKEN), "the log shows the token");
}

#[test]
fn without_a_token_this_machine_may_load_and_foreign_web_pages_may_not() {
    let node = without_onnxruntime(&models(), "")
        .env_remove("GRID__HTTP__ADMIN_TOKEN")
        .start()
        .expect("a node");
    let (foreign, text) = call(&node, "unload", &[("Origin", "http://elsewhere.example")]);
    assert_eq!(foreign, 403, "{text}");
    assert_eq!(call(&node, "unload", &[]).0, 200);
    assert_eq!(status(&node, "/v2/models/digits/ready"), Some(503));
    assert_eq!(call(&node, "load", &[]).0, 200);
    assert_eq!(status(&node, "/v2/models/digits/ready"), Some(200));
}
