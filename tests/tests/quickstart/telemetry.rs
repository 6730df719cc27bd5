//! What a request's ids do, and what the log looks like to a machine.

use std::time::Duration;

use grid_tests::load::http_request;
use grid_tests::process::{NodeProcess, Response, Stream, exchange};
use serde_json::Value;

use super::{FOREST, models, without_onnxruntime};

fn infer(node: &NodeProcess, model: &str, headers: &[(&str, &str)]) -> Response {
    let body = std::fs::read(models().join("digits/sample.json")).expect("a sample");
    let headers = [headers, &[("Connection", "close")]].concat();
    let request = http_request("POST", &format!("/v2/models/{model}/infer"), &headers, &body);
    exchange(node.address(), &request).expect("an answer")
}

#[test]
fn every_line_of_a_json_log_is_an_object() {
    let mut node = without_onnxruntime(&models(), "")
        .env("GRID__LOG__FORMAT", "json")
        .env("GRID__LOG__LEVEL", "debug")
        .start()
        .expect("a node");
    assert_eq!(infer(&node, "digits", &[("x-request-id", "the-good-one")]).status, 200);
    assert_eq!(infer(&node, "credit_risk", &[]).status, 400);
    assert_eq!(infer(&node, FOREST, &[]).status, 503);
    assert_eq!(infer(&node, "no_such", &[("x-request-id", "with\ttab")]).status, 404);
    node.reload().expect("a signal");
    node.terminate().expect("a signal");
    let exit = node.wait(Duration::from_secs(60)).expect("its end");
    assert_eq!(exit.code(), Some(0), "{}", node.output());
    let log = node.output_on(Stream::Error);
    assert!(!log.is_empty());
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    assert!(log.contains("the-good-one"), "the request's id is in the log:\n{log}");
}

#[test]
fn the_request_id_comes_back_and_so_does_a_trace_that_is_one() {
    let node = without_onnxruntime(&models(), "").start().expect("a node");
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let good = format!("00-{trace_id}-00f067aa0ba902b7-01");
    let answer = infer(&node, "digits", &[("x-request-id", "abc-1"), ("traceparent", &good)]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-request-id"), Some("abc-1"));
    let passed_on = answer.header("traceparent").expect("the trace comes back");
    assert!(passed_on.contains(trace_id) && passed_on != good, "{passed_on}");
    // A refusal belongs to its request just as well.
    let refused = infer(&node, "nope", &[("x-request-id", "abc-2"), ("traceparent", &good)]);
    assert_eq!((refused.status, refused.header("x-request-id")), (404, Some("abc-2")));
    for bad in [
        "",
        "nonsense",
        "00-0-0-00",
        &good.to_uppercase(),
        &good.replace("00-", "ff-"),
    ] {
        let answer = infer(&node, "digits", &[("traceparent", bad), ("tracestate", "a=b")]);
        assert_eq!(answer.status, 200, "{bad:?}: {}", answer.text());
        assert_eq!(answer.header("traceparent"), None, "{bad:?}");
        assert_eq!(answer.header("tracestate"), None, "{bad:?}");
        assert!(
            answer.header("x-request-id").is_some_and(|id| !id.is_empty()),
            "one is made"
        );
    }
}
