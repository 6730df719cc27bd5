//! Who may change what a node serves.

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HOST, ORIGIN};
use grid_core::config::HttpSettings;

/// Why an administrative call is refused: the status and the message.
pub(super) type Refusal = (u16, &'static str);

/// Lets an administrative call pass: with the token, where one is configured; else from this machine alone.
pub(super) fn permit(request: &HttpRequest, http: &HttpSettings) -> Result<(), Refusal> {
    // A web page that a person on this machine has open can make their browser call loopback. A browser then says
    // where the page came from, and no other client does.
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(origin) = header(ORIGIN) {
        let host = header(HOST).unwrap_or_default();
        if origin.split_once("://").map(|(_, origin)| origin) != Some(host) {
            return Err((403, "administrative calls from web pages of other origins are refused"));
        }
    }
    if let Some(token) = &http.admin_token {
        let given = header(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        return match given {
            Some(given) if token.matches(given.as_bytes()) => Ok(()),
            Some(_) => Err((403, "the token is not that of `http.admin_token`")),
            None => Err((
                401,
                "administrative calls need the header `Authorization: Bearer TOKEN`",
            )),
        };
    }
    if request
        .peer_addr()
        .is_some_and(|peer| peer.ip().to_canonical().is_loopback())
    {
        return Ok(());
    }
    Err((
        403,
        "administrative calls from other machines need `http.admin_token` in the node's config, and that token",
    ))
}
