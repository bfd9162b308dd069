//! Rules of VirtualServices that are never reached, and matches that another rule has already.

use xebec_galley::spec::{HttpMatchRequest, HttpRoute, VirtualService};
use xebec_pilot::mesh::MESH_GATEWAY;

use super::shadow;
use crate::codes;
use crate::finding::{About, Report, way};
use crate::view::View;

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    for resource in &view.virtual_services {
        let about = About::from(&resource.meta);
        let VirtualService { gateways, http, tls, tcp, .. } = &resource.spec;
        let gateways = if gateways.is_empty() { vec![MESH_GATEWAY.to_owned()] } else { gateways.clone() };

        let everything = [HttpMatchRequest::default()];
        let rules: Vec<Rule<'_, HttpMatchRequest>> = http
            .iter()
            .map(|route| Rule {
                name: &route.name,
                matches: if route.matches.is_empty() { &everything } else { &route.matches },
                written: !route.matches.is_empty(),
                decides: decides(route),
            })
            .collect();
        shadowed("http", &rules, |a, b| shadow::http(a, b, &gateways), about, report);

        let rules: Vec<_> = tls.iter().map(|route| Rule::of(&route.matches)).collect();
        shadowed("tls", &rules, |a, b| shadow::tls(a, b, &gateways), about, report);

        let everything = [Default::default()];
        let rules: Vec<_> = tcp
            .iter()
            .map(|route| {
                if route.matches.is_empty() {
                    Rule { written: false, ..Rule::of(&everything) }
                } else {
                    Rule::of(&route.matches)
                }
            })
            .collect();
        shadowed("tcp", &rules, |a, b| shadow::tcp(a, b, &gateways), about, report);
    }
}

struct Rule<'a, M> {
    name: &'a str,
    matches: &'a [M],
    /// Whether the matches are in the document.
    written: bool,
    /// Whether what it matches goes no further.
    decides: bool,
}

impl<'a, M> Rule<'a, M> {
    fn of(matches: &'a [M]) -> Self {
        Self { name: "", matches, written: true, decides: true }
    }
}

/// A delegate may know nothing of a request, and then the next rule is asked.
fn decides(route: &HttpRoute) -> bool {
    route.delegate.is_none()
}

fn shadowed<M>(
    part: &str,
    rules: &[Rule<'_, M>],
    covers: impl Fn(&M, &M) -> bool,
    about: About<'_>,
    report: &mut Report<'_>,
) {
    let named = |at: usize| match rules[at].name {
        "" => format!("{part}[{at}]"),
        name => format!("`{name}` ({part}[{at}])"),
    };
    for (at, rule) in rules.iter().enumerate() {
        // For each match, the rule that has it already.
        let owners: Vec<Option<usize>> = rule
            .matches
            .iter()
            .enumerate()
            .map(|(index, condition)| {
                let earlier = rules[..at].iter().enumerate().filter(|(_, earlier)| earlier.decides);
                let mut earlier = earlier.filter(|(_, e)| e.matches.iter().any(|m| covers(m, condition)));
                let within = || rule.matches[..index].iter().any(|m| covers(m, condition)).then_some(at);
                earlier.next().map(|(owner, _)| owner).or_else(within)
            })
            .collect();
        let others: Vec<usize> = owners.iter().flatten().copied().filter(|owner| *owner != at).collect();
        if !owners.is_empty() && others.len() == owners.len() {
            let mut distinct = others.clone();
            distinct.sort_unstable();
            distinct.dedup();
            let whose = distinct.iter().map(|owner| named(*owner)).collect::<Vec<_>>().join(" and ");
            let verb = if distinct.len() == 1 { "takes" } else { "take" };
            let why = format!("{whose} {verb} everything that it matches");
            report.add(&codes::UNREACHABLE_RULE, about, &way!["spec", part, at], &[&named(at), &why]);
            continue;
        }
        for (index, owner) in owners.iter().enumerate().filter(|_| rule.written) {
            if let Some(owner) = owner {
                let whose = if *owner == at { "an earlier match".to_owned() } else { named(*owner) };
                report.add(
                    &codes::INEFFECTIVE_MATCH,
                    about,
                    &way!["spec", part, at, "match", index],
                    &[&index.to_string(), &named(at), &whose],
                );
            }
        }
    }
}
