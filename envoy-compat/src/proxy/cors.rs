//! Cross-origin requests: preflights are answered here, other responses get their headers.

use crate::model::CorsPolicy;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderName, ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method};

/// What the policy says about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Pass,
    /// Answer 200 with these headers.
    Preflight(HeaderMap),
    /// Forward, then add these headers to the response.
    Allow(HeaderMap),
}

/// Judges a request.
pub(super) fn judge(policy: &CorsPolicy, method: &Method, headers: &HeaderMap) -> Verdict {
    let Some(origin) = headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else { return Verdict::Pass };
    let allowed = origin.to_str().is_ok_and(|text| policy.allow_origins.iter().any(|matcher| matcher.matches(text)));
    let preflight = method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut out = HeaderMap::new();
    if allowed {
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if policy.allow_credentials {
            out.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
    match (preflight, allowed) {
        (true, true) => {
            put(&mut out, ACCESS_CONTROL_ALLOW_METHODS, &policy.allow_methods);
            put(&mut out, ACCESS_CONTROL_ALLOW_HEADERS, &policy.allow_headers);
            put(&mut out, ACCESS_CONTROL_MAX_AGE, &policy.max_age);
            Verdict::Preflight(out)
        }
        (true, false) if !policy.forward_not_matching_preflights => Verdict::Preflight(out),
        (false, true) => {
            put(&mut out, ACCESS_CONTROL_EXPOSE_HEADERS, &policy.expose_headers);
            Verdict::Allow(out)
        }
        _ => Verdict::Pass,
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if !value.is_empty()
        && let Ok(value) = HeaderValue::from_str(value)
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::model::StringMatcher;

    fn policy() -> CorsPolicy {
        CorsPolicy {
            allow_origins: vec![StringMatcher::exact("http://a", false)],
            allow_methods: "GET".into(),
            allow_credentials: true,
            ..CorsPolicy::default()
        }
    }

    fn asked(method: Method, origin: &'static str, policy: &CorsPolicy) -> Verdict {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_static(origin));
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("GET"));
        judge(policy, &method, &headers)
    }

    #[test]
    fn preflights_are_answered_and_only_known_origins_are_let_in() {
        let Verdict::Preflight(headers) = asked(Method::OPTIONS, "http://a", &policy()) else { panic!("not answered") };
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "http://a");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "GET");
        assert_eq!(asked(Method::OPTIONS, "http://b", &policy()), Verdict::Preflight(HeaderMap::new()));
        let open = CorsPolicy { forward_not_matching_preflights: true, ..policy() };
        assert_eq!(asked(Method::OPTIONS, "http://b", &open), Verdict::Pass);
        let Verdict::Allow(headers) = asked(Method::GET, "http://a", &policy()) else { panic!("not allowed") };
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(asked(Method::GET, "http://b", &policy()), Verdict::Pass);
    }
}
