//! Registries that know one service and say different things of it.

use xebec_galley::SourceRef;

use crate::codes;
use crate::finding::{About, Report};
use crate::view::View;

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    for service in &view.input.services {
        let key = &service.service.key;
        for conflict in service.conflicts.iter() {
            // ServiceEntries among themselves have a code of their own.
            if [&conflict.kept_by, &conflict.lost_by].iter().all(|by| by.starts_with("ServiceEntry ")) {
                continue;
            }
            let nowhere = || SourceRef { file: service.service.registry.0.clone(), line: 1, column: 1 };
            let source = service.origin.clone().unwrap_or_else(nowhere);
            let about = About::new("Service", &key.namespace, &key.hostname, &source);
            let arguments: &[&str] =
                &[&conflict.what, &key.hostname, &conflict.kept, &conflict.kept_by, &conflict.lost, &conflict.lost_by];
            report.add(&codes::REGISTRIES_DISAGREE, about, &Default::default(), arguments);
        }
    }
}
