//! `GET /.well-known/littoral/nearest`: the entry points of the fabric, the nearest to a client first, and the way there.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use littoral_gateway::ClientAddress;
use littoral_mesh::Members;
use littoral_model::id::NodeId;
use littoral_model::situation::Position;
use littoral_plan::nearest::{Client, Entry, rank};
use serde_json::json;

use crate::admin::types::AdminError;

/// Where it is.
pub(crate) const PATH: &str = "/.well-known/littoral/nearest";

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    client: Client,
    /// The path to be sent to, if it wants to be sent there.
    redirect: Option<String>,
}

/// Answers a request.
pub(crate) fn answer(request: &Parts, own: &NodeId, members: &Members) -> Result<Response<Bytes>, AdminError> {
    let peer = request.extensions.get::<ClientAddress>().map(|peer| peer.0.ip());
    let question = question(request, peer)?;
    let asked = members.get(own).ok_or_else(|| AdminError::unavailable("this node is starting; try again"))?;
    let entries = rank(question.client, asked, members.values().map(AsRef::as_ref));
    let mut response = Response::new(Bytes::new());
    if let Some(path) = question.redirect {
        let best = entries.first().and_then(|best| best.digest.http.as_deref());
        let best = best.ok_or_else(|| {
            AdminError::unavailable("no node of the fabric serves HTTP").hint("start one with --http ADDRESS")
        })?;
        // Only ever to a node: its address stands before the path, which begins with a `/`.
        let location = HeaderValue::from_str(&format!("http://{best}{path}"));
        let location = location.map_err(|_| AdminError::invalid("`path` has characters that no path has"))?;
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert(LOCATION, location);
    } else {
        let entries: Vec<_> = entries.iter().map(shown).collect();
        let client = match question.client {
            Client::At(position) => json!({ "position": position }),
            Client::Address(address) => json!({ "address": address }),
        };
        *response.body_mut() = Bytes::from(format!("{}\n", json!({ "client": client, "entries": entries })));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    // It depends on who asks, and on how the fabric is now.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn shown(entry: &Entry<'_>) -> serde_json::Value {
    let digest = entry.digest;
    json!({
        "node": digest.node,
        "site": digest.site,
        "tier": digest.tier,
        "url": format!("http://{}", digest.http.as_deref().unwrap_or_default()),
        "grounds": entry.grounds,
        "distance_m": entry.distance_m,
        "rtt_us": entry.rtt_us,
    })
}

fn question(request: &Parts, peer: Option<IpAddr>) -> Result<Question, AdminError> {
    let (mut latitude, mut longitude, mut address, mut path, mut redirect) = (None, None, None, None, false);
    for pair in request.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value =
            decoded(value).ok_or_else(|| AdminError::invalid(format!("`{name}` is not encoded as a query is")))?;
        match name {
            "lat" => latitude = Some(value),
            "lon" => longitude = Some(value),
            "address" => address = Some(value),
            "path" => path = Some(value),
            "redirect" => redirect = value == "1",
            _ => {
                let text = format!("there is nothing to ask for with `{name}`");
                return Err(AdminError::invalid(text).hint("ask with `lat` and `lon`, `address`, `redirect` or `path`"));
            }
        }
    }
    let prefers = request.headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    redirect |= prefers.flat_map(|value| value.split(',')).any(|wish| wish.trim().eq_ignore_ascii_case("redirect"));
    let path = path.unwrap_or_else(|| "/".to_owned());
    if !is_path(&path) {
        return Err(AdminError::invalid("`path` is no path of a node").hint("give one that begins with a single `/`"));
    }
    let client = match (latitude, longitude, address) {
        (Some(latitude), Some(longitude), _) => {
            let position: Result<Position, _> = format!("{latitude},{longitude}").parse();
            Client::At(position.map_err(|error| AdminError::invalid(error.to_string()))?)
        }
        (None, None, Some(text)) => {
            let address = text.parse().map_err(|_| AdminError::invalid(format!("`{text}` is no address")))?;
            Client::Address(address)
        }
        (None, None, None) => {
            let peer =
                peer.ok_or_else(|| AdminError::invalid("it is not known where you are").hint("say `lat` and `lon`"))?;
            Client::Address(peer.to_canonical())
        }
        _ => return Err(AdminError::invalid("of a position only one half is given").hint("give both `lat` and `lon`")),
    };
    Ok(Question { client, redirect: redirect.then_some(path) })
}

/// A path with nothing that a client would read as another host, or as the end of a header.
fn is_path(path: &str) -> bool {
    let is_odd = |byte: u8| !byte.is_ascii_graphic() || byte == b'\\';
    path.starts_with('/') && !path.starts_with("//") && !path.bytes().any(is_odd)
}

/// A value of a query without its percent encoding.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            b'+' => b' ',
            _ => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Request;

    use super::*;

    fn ask(query: &str) -> Result<Question, AdminError> {
        let request = Request::get(format!("{PATH}?{query}")).body(()).unwrap().into_parts().0;
        question(&request, Some("::ffff:192.0.2.1".parse().unwrap()))
    }

    #[test]
    fn a_client_says_where_it_is_or_is_where_it_comes_from() {
        let at = |text: &str| Client::At(text.parse().unwrap());
        assert_eq!(ask("lat=59.3&lon=-18").unwrap(), Question { client: at("59.3,-18"), redirect: None });
        let address = Client::Address("192.0.2.1".parse().unwrap());
        assert_eq!(ask("").unwrap().client, address);
        assert_eq!(ask("address=2001%3Adb8%3A%3A1").unwrap().client, Client::Address("2001:db8::1".parse().unwrap()));
        let redirect = ask("redirect=1&path=%2Fa%2Fb%3Fc=d").unwrap();
        assert_eq!(redirect, Question { client: address, redirect: Some("/a/b?c=d".to_owned()) });
        for wrong in ["lat=1", "lat=91&lon=0", "lat=x&lon=0", "address=x", "far=1", "path=%2", "path=%ff"] {
            assert!(ask(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_redirect_never_leads_away_from_the_fabric() {
        for path in [
            "//evil.test",
            "@evil.test",
            ".evil.test",
            "https://evil.test",
            "/a%0d%0aset-cookie:x",
            "/%5cevil",
            "",
            "%09/x",
        ] {
            assert!(ask(&format!("redirect=1&path={path}")).is_err(), "{path}");
        }
        assert!(ask("redirect=1&path=/@evil.test//x").is_ok(), "that is a path of the node");
    }
}
