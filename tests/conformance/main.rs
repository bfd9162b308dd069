//! What every platform's adapter must do, checked against the real platform: one suite, one [`platform::Platform`] per adapter.
//!
//! `xebec serve --registry SPEC` runs as a child process; an [`observer::Observer`] is connected to it as a proxy would be, and keeps
//! every endpoint set that it was ever told. That is how a suite can say NEVER: a set that shrank for a moment was written down.
//!
//! Start reading at [`cases`]. A new platform implements [`platform::Platform`] and is added to the list at the end of this file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod cases;
mod consul;
mod file;
mod kubernetes;
mod nomad;
mod observer;
mod platform;
mod stage;

/// The suite for one platform. A server can answer wrongly: those that are one have a further test, by its name.
macro_rules! conforms {
    ($name:ident, $platform:ty $(, $faults:ident)?) => {
        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn what_is_there_is_complete_before_it_is_synced_and_then_every_change_is_seen() {
                crate::cases::life::<$platform>(stringify!($name)).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_thousand_changes_in_a_burst_end_in_the_last_state() {
                crate::cases::burst::<$platform>(stringify!($name)).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_outage_loses_and_invents_nothing_and_is_reported() {
                crate::cases::outage::<$platform>(stringify!($name)).await;
            }

            $(#[tokio::test(flavor = "multi_thread")]
            async fn $faults() {
                crate::cases::faults::<$platform>(stringify!($name)).await;
            })?
        }
    };
}

conforms!(on_file, crate::file::File);
conforms!(on_consul, crate::consul::OnConsul, wrong_answers_are_never_taken_for_deletions);
conforms!(on_nomad, crate::nomad::OnNomad, wrong_answers_are_never_taken_for_deletions);
conforms!(on_kubernetes, crate::kubernetes::OnKubernetes, wrong_answers_are_never_taken_for_deletions);
