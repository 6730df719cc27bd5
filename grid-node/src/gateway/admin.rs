//! Who may change what a node serves.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HOST, ORIGIN};
use grid_core::config::HttpSettings;

/// Why an administrative call is refused: the status and the message.
pub(super) type Refusal = (u16, &'static str);

/// Who makes an administrative call, whatever the protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    /// The address that the connection comes from.
    pub(super) peer: Option<IpAddr>,
    /// Where a web page came from that makes the call. Only browsers say that.
    pub(super) origin: Option<&'a str>,
    /// The name that the caller knows this node by.
    pub(super) host: Option<&'a str>,
    /// What the caller presents as its permission.
    pub(super) authorization: Option<&'a str>,
}

/// Lets an administrative call over HTTP pass.
pub(super) fn permit(request: &HttpRequest, http: &HttpSettings) -> Result<(), Refusal> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let caller = Caller {
        peer: request.peer_addr().map(|peer| peer.ip()),
        origin: header(ORIGIN),
        host: header(HOST),
        authorization: header(AUTHORIZATION),
    };
    permit_caller(&caller, http)
}

/// Whether that names a machine by its address, or this one. Any other name may be made to mean this machine by whoever
/// owns it (DNS rebinding), and then a page of theirs would pass for one of this node's.
fn is_literal(authority: &str) -> bool {
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, port)| match port.parse::<u16>() {
            Ok(_) => host,
            Err(_) => authority,
        });
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host == "localhost" || host.parse::<IpAddr>().is_ok()
}

/// Lets an administrative call pass: with the token, where one is configured; else from this machine alone.
pub(super) fn permit_caller(caller: &Caller<'_>, http: &HttpSettings) -> Result<(), Refusal> {
    // A web page that a person on this machine has open can make their browser call loopback. A browser then says
    // where the page came from, and no other client does.
    if let Some(origin) = caller.origin {
        let of_page = origin.split_once("://").map(|(_, origin)| origin);
        if of_page.is_none() || of_page != caller.host || !of_page.is_some_and(is_literal) {
            return Err((403, "administrative calls from web pages of other origins are refused"));
        }
    }
    if let Some(token) = &http.admin_token {
        let given = caller.authorization.and_then(|value| value.strip_prefix("Bearer "));
        return match given {
            Some(given) if token.matches(given.as_bytes()) => Ok(()),
            Some(_) => Err((403, "the token is not that of `http.admin_token`")),
            None => Err((
                401,
                "administrative calls need the header `Authorization: Bearer TOKEN`",
            )),
        };
    }
    if caller.peer.is_some_and(|peer| peer.to_canonical().is_loopback()) {
        return Ok(());
    }
    Err((
        403,
        "administrative calls from other machines need `http.admin_token` in the node's config, and that token",
    ))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use actix_web::http::header::HeaderName;
    use actix_web::test::TestRequest;
    use grid_core::config::Secret;

    use super::*;

    const LOOPBACK: &str = "127.0.0.1";
    const REMOTE: &str = "192.0.2.7";
    const TOKEN: &str = "the right admin token";

    fn http(token: Option<&str>) -> HttpSettings {
        HttpSettings {
            admin_token: token.map(Secret::new),
            ..HttpSettings::default()
        }
    }

    /// The status of the refusal of a call from that address with these headers, `None` if it may pass.
    fn refusal(token: Option<&str>, from: &str, headers: &[(HeaderName, &str)]) -> Option<u16> {
        let from: IpAddr = from.parse().unwrap();
        let request = TestRequest::post().peer_addr(SocketAddr::new(from, 4711));
        let with = |request: TestRequest, (name, value): &(HeaderName, &str)| request.insert_header((name, *value));
        let request = headers.iter().fold(request, with).to_http_request();
        permit(&request, &http(token)).err().map(|(status, _)| status)
    }

    #[test]
    fn without_a_token_calls_from_this_machine_pass_and_no_others() {
        for loopback in [LOOPBACK, "127.8.9.10", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(refusal(None, loopback, &[]), None, "{loopback}");
        }
        for remote in [
            REMOTE,
            "10.0.0.1",
            "0.0.0.0",
            "::ffff:192.0.2.7",
            "2001:db8::1",
            "fe80::1",
        ] {
            assert_eq!(refusal(None, remote, &[]), Some(403), "{remote}");
        }
        let unknown = TestRequest::post().to_http_request();
        assert!(permit(&unknown, &http(None)).is_err(), "an address that is not known");
    }

    #[test]
    fn no_header_makes_a_remote_call_a_local_one() {
        for name in ["x-forwarded-for", "forwarded", "x-real-ip", "host"] {
            let header = (HeaderName::from_static(name), LOOPBACK);
            assert_eq!(refusal(None, REMOTE, &[header]), Some(403), "{name}");
        }
        let any_token = (AUTHORIZATION, "Bearer anything");
        assert_eq!(refusal(None, REMOTE, &[any_token]), Some(403));
    }

    #[test]
    fn with_a_token_it_alone_decides_wherever_the_call_comes_from() {
        for from in [LOOPBACK, REMOTE, "::1"] {
            let status = |headers: &[(HeaderName, &str)]| refusal(Some(TOKEN), from, headers);
            assert_eq!(status(&[]), Some(401), "{from}");
            let right = format!("Bearer {TOKEN}");
            assert_eq!(status(&[(AUTHORIZATION, &right)]), None, "{from}");
            for wrong in [
                "Bearer ",
                "Bearer wrong",
                "Bearer the right admin token!",
                "Bearer the right admin toke",
            ] {
                assert_eq!(status(&[(AUTHORIZATION, wrong)]), Some(403), "{from}: {wrong}");
            }
            for other in [TOKEN, "Basic dXNlcjpwYXNz", ""] {
                assert_eq!(status(&[(AUTHORIZATION, other)]), Some(401), "{from}: {other}");
            }
        }
    }

    #[test]
    fn a_web_page_of_another_origin_passes_neither_from_this_machine_nor_with_the_token() {
        let right = format!("Bearer {TOKEN}");
        let host = (HOST, "127.0.0.1:8000");
        for origin in [
            "https://example.org",
            "http://127.0.0.1:9000",
            "http://localhost:8000",
            "null",
            "",
        ] {
            let foreign = [(ORIGIN, origin), host.clone()];
            assert_eq!(refusal(None, LOOPBACK, &foreign), Some(403), "{origin:?}");
            let foreign = [(ORIGIN, origin), host.clone(), (AUTHORIZATION, right.as_str())];
            assert_eq!(refusal(Some(TOKEN), LOOPBACK, &foreign), Some(403), "{origin:?}");
        }
        for (origin, host, refused) in [
            ("http://[::1]:8000", "[::1]:8000", None),
            ("http://localhost", "localhost", None),
            ("http://rebound.example:8000", "rebound.example:8000", Some(403)),
        ] {
            let headers = [(ORIGIN, origin), (HOST, host)];
            assert_eq!(refusal(None, LOOPBACK, &headers), refused, "{origin}");
        }
        let own = [(ORIGIN, "http://127.0.0.1:8000"), host];
        assert_eq!(refusal(None, LOOPBACK, &own), None);
        assert_eq!(refusal(None, REMOTE, &own), Some(403));
    }
}
