//! `/v2/models/{name}/stream`: the handshake, and what a connection is opened with.

use std::cell::RefCell;
use std::rc::Rc;

use actix_web::http::header::{HOST, HeaderValue, ORIGIN};
use actix_web::{HttpRequest, HttpResponse, web};

use super::conversation::Conversation;
use super::socket::{SocketOptions, accept};
use crate::gateway::Worker;
use crate::gateway::rest::{message, named, refuse};
use crate::standing::Stage;

pub(in crate::gateway) fn routes(config: &mut web::ServiceConfig) {
    for model in ["/v2/models/{name}", "/v2/models/{name}/versions/{version}"] {
        config.route(&format!("{model}/stream"), web::get().to(stream));
    }
}

async fn stream(request: HttpRequest, payload: web::Payload, worker: web::Data<Worker>) -> HttpResponse {
    let (name, version) = named(&request);
    let route = match worker.shared.routes.resolve(name, version) {
        Ok(route) => route,
        Err(error) => return refuse(&error),
    };
    let settings = &worker.shared.config.websocket;
    if let Some(refused) = foreign_page(&request, &settings.allow_origins) {
        return message(403, &refused);
    }
    if worker.shared.standing.stage() == Stage::Draining {
        return message(503, "the node is draining");
    }
    let held = Rc::new(RefCell::new(worker.bodies.begin()));
    let room = Rc::clone(&held);
    let options = SocketOptions {
        max_message: usize::try_from(worker.shared.config.http.max_body).unwrap_or(usize::MAX),
        ping_interval: settings.ping_interval,
        pong_timeout: settings.pong_timeout,
        send_timeout: settings.send_timeout,
        high_water: usize::try_from(settings.max_buffered).unwrap_or(usize::MAX),
        room: Box::new(move |bytes| room.borrow_mut().grow(bytes)),
    };
    let (response, socket) = match accept(&request, payload, options) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal.response(),
    };
    let version = version.map(|_| route.id.version);
    actix::spawn(Conversation::new(worker, route.id.name.clone(), version, socket, held).run());
    response
}

/// Why a web page may not connect. A browser lets any page open a WebSocket to anywhere, this machine included, and tells
/// where the page came from; no other client does.
fn foreign_page(request: &HttpRequest, allowed: &[String]) -> Option<String> {
    let header = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let origin = String::from_utf8_lossy(header(ORIGIN)?).into_owned();
    let host = header(HOST).unwrap_or_default();
    // A name that is made to mean this machine (DNS rebinding) passes for the node's own. What such a page gets is
    // inference, as any program on this machine does; administrative calls look closer.
    let is_own = origin.split_once("://").is_some_and(|(_, own)| own.as_bytes() == host);
    let is_allowed = allowed.iter().any(|allowed| allowed == "*" || *allowed == origin);
    (!is_own && !is_allowed).then(|| {
        let origin: String = origin.chars().take(100).collect();
        format!("web pages of `{origin}` may not connect; name it in `websocket.allow_origins` of the node's config")
    })
}
