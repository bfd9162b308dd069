//! Istio's annotations on the platform's objects: misspelt, misplaced, unreadable, deprecated or alpha.

use std::net::IpAddr;

use super::annotation_table::{ANNOTATIONS, Annotation, Status, Value};
use crate::codes;
use crate::finding::{Report, way};
use crate::object::{Body, Object};
use crate::view::{INJECT, View, is_system};
use xebec_galley::spec::LabelMap;
use xebec_galley::yaml::Path;

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    for object in view.input.objects.iter().filter(|object| !is_system(&object.namespace)) {
        let kind = &*object.kind;
        if matches!(kind, "Namespace" | "Service" | "Pod" | "Deployment" | "StatefulSet" | "DaemonSet") {
            let at = way!["metadata", "annotations"];
            check(object, &object.annotations, &object.labels, kind, &at, report);
        }
        if let Body::Workload(workload) = &object.body
            && workload.template
        {
            let at = way!["spec", "template", "metadata", "annotations"];
            check(object, &workload.annotations, &workload.labels, "Pod", &at, report);
        }
    }
}

fn check(object: &Object, all: &LabelMap, labels: &LabelMap, kind: &str, at: &Path, report: &mut Report<'_>) {
    for (key, value) in all.iter().filter(|(key, _)| is_istios(key)) {
        let mut path = at.clone();
        path.0.extend(way![key.as_str()].0);
        let Some(known) = ANNOTATIONS.iter().find(|annotation| annotation.name == key) else {
            let near = xebec_galley::yaml::suggest(key, ANNOTATIONS.iter().map(|annotation| annotation.name));
            let finding = report.add(&codes::UNKNOWN_ANNOTATION, object, &path, &[key]);
            if let Some(near) = near {
                finding.set_help(format!("did you mean `{near}`?"));
            }
            continue;
        };
        let Annotation { kinds, status, value: form, .. } = known;
        if !kinds.is_empty() && !kinds.contains(&kind) {
            report.add(&codes::MISPLACED_ANNOTATION, object, &path, &[key, &kinds.join(" or ")]);
            continue;
        }
        if let Some(form) = form.filter(|form| !fits(*form, value)) {
            report.add(&codes::INVALID_ANNOTATION, object, &path, &[key, describe(form)]);
        }
        match status {
            // Who has the label too keeps the annotation for older versions, and knows.
            Status::Deprecated("") if key == INJECT && labels.contains_key(INJECT) => {}
            Status::Deprecated(instead) => {
                let instead = if key == INJECT { "; use the label of that name" } else { *instead };
                report.add(&codes::DEPRECATED_ANNOTATION, object, &path, &[key, instead]);
            }
            Status::Alpha => {
                report.add(&codes::ALPHA_ANNOTATION, object, &path, &[key]);
            }
            Status::Stable => {}
        }
    }
}

fn is_istios(key: &str) -> bool {
    key.split_once('/').is_some_and(|(prefix, _)| prefix == "istio.io" || prefix.ends_with(".istio.io"))
}

fn describe(value: Value) -> &'static str {
    match value {
        Value::Bool => "`true` or `false`",
        Value::Port => "a port's number",
        Value::Number => "a whole number",
        Value::Ports => "port numbers, separated by commas",
        Value::Networks => "networks such as `10.0.0.0/8`, separated by commas, or `*`",
        Value::Interception => "`REDIRECT`, `TPROXY` or `NONE`",
    }
}

fn fits(form: Value, value: &str) -> bool {
    let every = |test: fn(&str) -> bool| value.split(',').map(str::trim).filter(|v| !v.is_empty()).all(test);
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    match form {
        Value::Bool => {
            value.parse::<bool>().is_ok() || matches!(value, "1" | "0" | "True" | "False" | "TRUE" | "FALSE")
        }
        Value::Port => is_port(value),
        Value::Number => value.parse::<u32>().is_ok(),
        Value::Ports => value == "*" || every(|text| text.parse::<u16>().is_ok()),
        Value::Networks => {
            value == "*"
                || every(|text| {
                    text.split_once('/').is_some_and(|(address, bits)| {
                        let longest = match address.parse::<IpAddr>() {
                            Ok(IpAddr::V4(_)) => 32,
                            Ok(IpAddr::V6(_)) => 128,
                            Err(_) => return false,
                        };
                        bits.parse::<u8>().is_ok_and(|bits| bits <= longest)
                    })
                })
        }
        Value::Interception => matches!(value, "REDIRECT" | "TPROXY" | "NONE"),
    }
}
