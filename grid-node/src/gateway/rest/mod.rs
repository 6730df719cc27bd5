//! The Open Inference Protocol v2 over REST, with the extensions that `GET /v2` advertises.

pub mod codec;
mod config;
mod grid;
mod health;
mod infer;
mod metadata;
mod repository;
mod statistics;

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, web};
use grid_core::InferError;

use crate::actors::VersionRoute;
use crate::gateway::retry_after::spread_seconds;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/v2/models/{name}/infer", web::post().to(infer::infer))
        .route(
            "/v2/models/{name}/versions/{version}/infer",
            web::post().to(infer::infer),
        )
        .route("/v2", web::get().to(metadata::server))
        .route("/v2/grid", web::get().to(grid::status))
        .route("/v2/grid/capacity", web::post().to(grid::capacity))
        .route("/v2/health/live", web::get().to(health::live))
        .route("/v2/health/ready", web::get().to(health::ready))
        .route("/v2/models/stats", web::get().to(statistics::all))
        .route("/v2/repository/index", web::post().to(repository::index))
        .route("/v2/repository/models/{name}/load", web::post().to(repository::load))
        .route(
            "/v2/repository/models/{name}/unload",
            web::post().to(repository::unload),
        );
    for model in ["/v2/models/{name}", "/v2/models/{name}/versions/{version}"] {
        config
            .route(model, web::get().to(metadata::model))
            .route(&format!("{model}/ready"), web::get().to(health::model_ready))
            .route(&format!("{model}/config"), web::get().to(config::config))
            .route(&format!("{model}/stats"), web::get().to(statistics::model));
    }
}

/// What a path names: `{name}` and, where the path has it, `{version}`.
pub(super) fn named(request: &HttpRequest) -> (&str, Option<&str>) {
    let path = request.match_info();
    (path.get("name").unwrap_or_default(), path.get("version"))
}

/// What a model is and what runs it, as Triton writes it: `onnxruntime_onnx`.
fn platform(route: &VersionRoute) -> String {
    format!("{}_onnx", route.runtime)
}

/// The answer of a request that failed, as the table of [`codec::status`] has it.
pub(super) fn refuse(error: &InferError) -> HttpResponse {
    let mut response = message(codec::status(error), &error.to_string());
    if let Some(seconds) = codec::retry_after(error) {
        let seconds = spread_seconds(seconds, rand::random());
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// An error message in the protocol's form.
pub(super) fn message(status: u16, text: &str) -> HttpResponse {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status)
        .insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")))
        .body(codec::error_body(&cut(text)))
}

/// Longest message that is sent: it names what a client sent, which can be as long as a body.
const MAX_MESSAGE_CHARS: usize = 1000;
/// Longest piece between backticks in a message that is too long. Names are shorter, and what was expected instead
/// mostly stands behind them: cutting the end alone would lose it.
const MAX_QUOTED_CHARS: usize = 100;

pub(in crate::gateway) fn cut(text: &str) -> Cow<'_, str> {
    if text.chars().nth(MAX_MESSAGE_CHARS).is_none() {
        return Cow::Borrowed(text);
    }
    let mut short = String::new();
    for (index, piece) in text.split('`').enumerate() {
        // Every other piece is quoted; an unlucky name with backticks shifts that, and the last cut bounds it.
        let longest = if index % 2 == 1 {
            MAX_QUOTED_CHARS
        } else {
            MAX_MESSAGE_CHARS
        };
        if index > 0 {
            short.push('`');
        }
        short.push_str(&cut_to(piece, longest));
        // No character has more than four bytes: what follows is cut off anyway.
        if short.len() > 4 * MAX_MESSAGE_CHARS {
            break;
        }
    }
    Cow::Owned(cut_to(&short, MAX_MESSAGE_CHARS).into_owned())
}

fn cut_to(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

pub(super) async fn no_such_path(request: HttpRequest) -> HttpResponse {
    // The paths of the table above exist under other methods, which is what most people got wrong who come here.
    let known = "/v2, /v2/grid, /v2/health/{live,ready}, /v2/models/NAME[/versions/N][/infer|/stream], /v2/repository/index, /metrics, /pages/voice";
    let path: String = request.path().chars().take(200).collect();
    message(404, &format!("no {} {path} here; there is {known}", request.method()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_and_what_was_expected_instead_stays() {
        let named = |name: &str| format!("input `{name}`: the model has no such input; expected `features`");
        assert_eq!(cut(&named("n")), named("n"));
        let long = named(&"ü".repeat(100_000));
        assert_eq!(cut(&long), named(&format!("{}…", "ü".repeat(100))));
    }

    #[test]
    fn no_message_is_longer_than_the_bound() {
        for text in [
            "n".repeat(100_000),
            "`".repeat(100_000),
            format!("a{}", "` `a".repeat(100_000)),
        ] {
            assert_eq!(cut(&text).chars().count(), MAX_MESSAGE_CHARS + 1);
        }
    }
}
