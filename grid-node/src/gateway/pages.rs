//! Pages for a browser, to see the node at work. They are in the binary and need nothing else: no files, no internet.
//!
//! A page is a client like others and talks the public protocols; nothing here knows what a model is.

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpResponse, web};

struct Asset {
    path: &'static str,
    content_type: &'static str,
    content: &'static str,
}

macro_rules! asset {
    ($path:literal, $content_type:expr) => {
        asset!($path, $content_type, $path)
    };
    ($path:literal, $content_type:expr, $file:literal) => {
        Asset {
            path: concat!("/pages/", $path),
            content_type: $content_type,
            content: include_str!(concat!("pages/", $file)),
        }
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

const ASSETS: &[Asset] = &[
    asset!("voice", HTML, "voice.html"),
    asset!("voice.css", CSS),
    asset!("voice.js", SCRIPT),
    asset!("sound.js", SCRIPT),
    asset!("microphone.js", SCRIPT),
    asset!("stream.js", SCRIPT),
    asset!("frames.js", SCRIPT),
    asset!("uplot/uPlot.iife.min.js", SCRIPT),
    asset!("uplot/uPlot.min.css", CSS),
    asset!("uplot/LICENSE", TEXT),
];

const HEADERS: [(HeaderName, &str); 3] = [
    // Only what this node itself serves runs, and only this node is talked to, over HTTP and WebSocket; no other page
    // frames it. The icon is an empty `data:`, so that browsers do not ask for one.
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // The parts of a page belong together: after another node version has started, all are fetched again.
    (CACHE_CONTROL, "no-cache"),
];

pub(super) fn routes(config: &mut web::ServiceConfig) {
    for asset in ASSETS {
        config.route(asset.path, web::get().to(move || async { asset.response() }));
    }
}

impl Asset {
    fn response(&self) -> HttpResponse {
        let mut response = HttpResponse::Ok();
        for header in HEADERS {
            response.insert_header(header);
        }
        response
            .insert_header((CONTENT_TYPE, self.content_type))
            .body(self.content)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use actix_web::test::{TestRequest, call_service, init_service, read_body};
    use actix_web::{App, http::StatusCode};

    use super::*;

    /// What stands between `before` and the next quotation mark.
    fn named<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(before)
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap_or_default())
    }

    #[actix_web::test]
    async fn an_asset_comes_with_its_type_and_may_load_only_from_the_node() {
        let app = init_service(App::new().configure(routes)).await;
        for asset in ASSETS {
            let response = call_service(&app, TestRequest::get().uri(asset.path).to_request()).await;
            assert_eq!(response.status(), StatusCode::OK, "{}", asset.path);
            for (name, value) in HEADERS.into_iter().chain([(CONTENT_TYPE, asset.content_type)]) {
                let found = response.headers().get(&name).map(|value| value.as_bytes());
                assert_eq!(found, Some(value.as_bytes()), "{name} of {}", asset.path);
            }
            assert_eq!(read_body(response).await, asset.content);
        }
    }

    #[test]
    fn whatever_a_page_names_is_served() {
        let served = |name: &str| ASSETS.iter().any(|asset| asset.path == format!("/pages/{name}"));
        let own = ASSETS.iter().filter(|asset| !asset.path.contains("/uplot/"));
        let mut found = 0;
        for asset in own {
            for before in ["src=\"", "href=\"", "from \"./", "new URL(\""] {
                for name in named(asset.content, before).filter(|name| *name != "data:,") {
                    assert!(served(name), "{} names {name}", asset.path);
                    found += 1;
                }
            }
        }
        assert!(found >= 8, "{found}");
    }

    #[test]
    fn every_file_of_the_folder_is_served_but_notes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway/pages");
        for folder in [folder.clone(), folder.join("uplot")] {
            for file in std::fs::read_dir(folder).expect("the folder of this module") {
                let file = file.expect("an entry").path();
                if file.is_dir() || file.extension().is_some_and(|extension| extension == "md") {
                    continue;
                }
                let content = std::fs::read_to_string(&file).expect("a text");
                assert!(
                    ASSETS.iter().any(|asset| asset.content == content),
                    "{}",
                    file.display()
                );
            }
        }
    }
}
