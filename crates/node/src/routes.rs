//! The routes of all apps by their paths, as a tree of segments: a request walks its own path once, however many routes
//! there are.

use std::collections::HashMap;

use littoral_model::id::AppId;
use littoral_model::manifest::RouteTarget;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) app: AppId,
    pub(crate) target: RouteTarget,
    /// The header whose value keeps requests on one instance.
    pub(crate) sticky: Option<String>,
    /// Whether a second instance may be asked while the first has not answered.
    pub(crate) hedge: bool,
}

/// All routes. Of several that match, the one with the most segments leads, and an exact one before one for everything
/// below; of equal ones the first that was added.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    root: Segment,
}

#[derive(Debug, Default)]
struct Segment {
    children: HashMap<Box<str>, Segment>,
    exact: Option<Route>,
    below: Option<Route>,
}

impl Routes {
    /// Adds the route of a path as the manifest has it: from `/`, with `/*` at its end for everything below.
    pub(crate) fn add(&mut self, path: &str, route: Route) {
        let (path, is_below) = path.strip_suffix("/*").map_or((path, false), |path| (path, true));
        let mut segment = &mut self.root;
        for name in segments(path) {
            segment = segment.children.entry(name.into()).or_default();
        }
        if is_below { &mut segment.below } else { &mut segment.exact }.get_or_insert(route);
    }

    /// Where a path leads.
    pub(crate) fn find(&self, path: &str) -> Option<&Route> {
        let mut segment = &self.root;
        let mut found = segment.below.as_ref();
        for name in segments(path) {
            segment = match segment.children.get(name) {
                Some(child) => child,
                None => return found,
            };
            found = segment.below.as_ref().or(found);
        }
        segment.exact.as_ref().or(found)
    }
}

/// The segments of a path: none of ``, one empty one of `/`.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|path| path.split('/'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn routes(paths: &[&str]) -> Routes {
        let mut routes = Routes::default();
        for path in paths {
            let app = AppId { tenant: "default".parse().unwrap(), app: "shop".parse().unwrap() };
            let target = RouteTarget::Stream("orders".parse().unwrap());
            routes.add(path, Route { app, target, sticky: Some((*path).to_owned()), hedge: false });
        }
        routes
    }

    #[test]
    fn the_route_with_the_most_segments_leads() {
        let routes = routes(&["/*", "/a", "/a/*", "/a/b/*", "/a/b/c", "/x/y", "/a", "/z/"]);
        let found = |path| routes.find(path).and_then(|route| route.sticky.as_deref());
        for (path, expected) in [
            ("/", "/*"),
            ("/other", "/*"),
            ("/a", "/a"),
            ("/a/", "/a/*"),
            ("/a/x/y", "/a/*"),
            ("/a/b", "/a/b/*"),
            ("/a/b/c", "/a/b/c"),
            ("/a/b/c/d", "/a/b/*"),
            ("/ab", "/*"),
            ("/x", "/*"),
            ("/x/y", "/x/y"),
            ("/z/", "/z/"),
            ("*", "/*"),
        ] {
            assert_eq!(found(path), Some(expected), "{path}");
        }
    }

    #[test]
    fn no_route_leads_where_none_was_added() {
        let routes = routes(&["/", "/x/*"]);
        let is_found = |path: &str| routes.find(path).is_some();
        assert!(is_found("/") && is_found("/x") && is_found("/x/y"));
        assert!(!is_found("/y") && !is_found("//") && !is_found("/xy") && !is_found(""));
        // As long as a head may be: the walk ends where the tree does.
        assert!(!is_found(&"/".repeat(32 << 10)));
    }
}
