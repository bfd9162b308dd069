//! How a cluster chooses among its endpoints.

use xebec_proto::envoy::config::cluster::v3::{
    self as cluster,
    cluster::{
        LbConfig, LbPolicy as WireLbPolicy,
        common_lb_config::{self, LocalityConfigSpecifier},
    },
};
use xebec_proto::envoy::extensions::load_balancing_policies as policies;
use xebec_proto::envoy::extensions::load_balancing_policies::common::v3::{
    LocalityLbConfig, locality_lb_config::LocalityConfigSpecifier as PolicyLocality,
};
use xebec_proto::google::protobuf::UInt32Value;
use xebec_proto::type_url;

use super::place::{Outcome, Place, ignored, inert, refused};
use super::value;
use crate::model::{Cluster, Discovery, LbPolicy};

/// The largest tables that are built; Envoy's own bounds.
const LARGEST_RING: u64 = 8 * 1024 * 1024;
const LARGEST_MAGLEV: u64 = 5_000_011;

pub(super) fn lb(at: Place<'_>, policy: i32, discovery: Discovery, config: Option<&LbConfig>) -> Outcome<LbPolicy> {
    let policy_at = at.field("lb_policy");
    Ok(match WireLbPolicy::try_from(policy) {
        Ok(WireLbPolicy::RoundRobin | WireLbPolicy::LoadBalancingPolicyConfig) => {
            if let Some(LbConfig::RoundRobinLbConfig(config)) = config {
                let cluster::cluster::RoundRobinLbConfig { slow_start_config } = config;
                ignored!(at.field("round_robin_lb_config"); slow_start_config);
            }
            LbPolicy::RoundRobin
        }
        Ok(WireLbPolicy::ClusterProvided) if discovery == Discovery::OriginalDst => LbPolicy::RoundRobin,
        Ok(WireLbPolicy::ClusterProvided) => {
            return Err(policy_at.refuse("CLUSTER_PROVIDED is for clusters of type ORIGINAL_DST"));
        }
        Ok(WireLbPolicy::Random) => LbPolicy::Random,
        Ok(WireLbPolicy::LeastRequest) => {
            let mut choices = 2;
            if let Some(LbConfig::LeastRequestLbConfig(config)) = config {
                let cluster::cluster::LeastRequestLbConfig { choice_count, active_request_bias, slow_start_config } =
                    config;
                let at = at.field("least_request_lb_config");
                ignored!(at; active_request_bias, slow_start_config);
                choices = self::choices(choice_count.as_ref());
            }
            LbPolicy::LeastRequest { choices }
        }
        Ok(WireLbPolicy::RingHash) => match config {
            Some(LbConfig::RingHashLbConfig(config)) => {
                let cluster::cluster::RingHashLbConfig { minimum_ring_size, hash_function, maximum_ring_size } = config;
                let at = at.field("ring_hash_lb_config");
                ignored!(at; hash_function);
                ring(at, minimum_ring_size.map(|v| v.value), maximum_ring_size.map(|v| v.value))?
            }
            _ => ring(at, None, None)?,
        },
        Ok(WireLbPolicy::Maglev) => match config {
            Some(LbConfig::MaglevLbConfig(config)) => {
                maglev(at.field("maglev_lb_config"), config.table_size.map(|v| v.value))?
            }
            _ => maglev(at, None)?,
        },
        Err(_) => return Err(policy_at.refuse("not a known policy")),
    })
}

fn choices(value: Option<&UInt32Value>) -> u32 {
    value::number(value).unwrap_or(2).max(2)
}

fn ring(at: Place<'_>, minimum: Option<u64>, maximum: Option<u64>) -> Outcome<LbPolicy> {
    let minimum = minimum.unwrap_or(1024);
    let maximum = maximum.unwrap_or(LARGEST_RING);
    if maximum > LARGEST_RING || minimum > maximum {
        return Err(at.refuse(format_args!("ring sizes have to be ordered and at most {LARGEST_RING}")));
    }
    Ok(LbPolicy::RingHash { minimum, maximum })
}

fn maglev(at: Place<'_>, table: Option<u64>) -> Outcome<LbPolicy> {
    let table = table.unwrap_or(65_537);
    // The bound comes first: it is what makes looking for divisors cheap.
    let prime = || table > 1 && (2..).take_while(|d| d * d <= table).all(|d| !table.is_multiple_of(d));
    if table > LARGEST_MAGLEV || !prime() {
        return Err(at
            .field("table_size")
            .refuse(format_args!("a table's size is a prime number up to {LARGEST_MAGLEV}")));
    }
    Ok(LbPolicy::Maglev { table })
}

/// The first policy of the list that is known, as Envoy chooses.
pub(super) fn load_balancing(at: Place<'_>, value: &cluster::LoadBalancingPolicy, out: &mut Cluster) -> Outcome<()> {
    let list = at.field("policies");
    for (index, policy) in value.policies.iter().enumerate() {
        let at = list.index(index);
        let Some(any) = policy.typed_extension_config.as_ref().and_then(|config| config.typed_config.as_ref()) else {
            continue;
        };
        let at = at.field("typed_extension_config");
        match type_url::of_name(type_url::name_of(&any.type_url)).as_str() {
            type_url::LB_ROUND_ROBIN => {
                let policies::round_robin::v3::RoundRobin { slow_start_config, locality_lb_config } =
                    &value::unpack(at, any)?;
                ignored!(at; slow_start_config);
                out.lb = LbPolicy::RoundRobin;
                policy_locality(at, locality_lb_config.as_ref(), out);
            }
            type_url::LB_LEAST_REQUEST => {
                let policies::least_request::v3::LeastRequest {
                    choice_count,
                    active_request_bias,
                    slow_start_config,
                    locality_lb_config,
                    enable_full_scan,
                    selection_method,
                } = &value::unpack(at, any)?;
                ignored!(at; active_request_bias, slow_start_config, enable_full_scan, selection_method);
                out.lb = LbPolicy::LeastRequest { choices: choices(choice_count.as_ref()) };
                policy_locality(at, locality_lb_config.as_ref(), out);
            }
            type_url::LB_RANDOM => {
                let random: policies::random::v3::Random = value::unpack(at, any)?;
                out.lb = LbPolicy::Random;
                policy_locality(at, random.locality_lb_config.as_ref(), out);
            }
            type_url::LB_RING_HASH => {
                let policies::ring_hash::v3::RingHash {
                    hash_function,
                    minimum_ring_size,
                    maximum_ring_size,
                    use_hostname_for_hashing,
                    hash_balance_factor,
                    consistent_hashing_lb_config,
                    locality_weighted_lb_config,
                } = &value::unpack(at, any)?;
                ignored!(at; hash_function, use_hostname_for_hashing, hash_balance_factor, consistent_hashing_lb_config);
                out.lb = ring(at, minimum_ring_size.map(|v| v.value), maximum_ring_size.map(|v| v.value))?;
                out.locality_weighted = locality_weighted_lb_config.is_some();
            }
            type_url::LB_MAGLEV => {
                let policies::maglev::v3::Maglev {
                    table_size,
                    consistent_hashing_lb_config,
                    locality_weighted_lb_config,
                } = &value::unpack(at, any)?;
                ignored!(at; consistent_hashing_lb_config);
                out.lb = maglev(at, table_size.map(|v| v.value))?;
                out.locality_weighted = locality_weighted_lb_config.is_some();
            }
            type_url::LB_CLUSTER_PROVIDED => {}
            _ => {
                at.ignored("the next policy of the list is used");
                continue;
            }
        }
        return Ok(());
    }
    Err(list.refuse("none of the policies is supported"))
}

fn policy_locality(at: Place<'_>, value: Option<&LocalityLbConfig>, out: &mut Cluster) {
    match value.and_then(|value| value.locality_config_specifier.as_ref()) {
        Some(PolicyLocality::LocalityWeightedLbConfig(_)) => out.locality_weighted = true,
        Some(PolicyLocality::ZoneAwareLbConfig(_)) => at.field("zone_aware_lb_config").ignored(""),
        None => {}
    }
}

pub(super) fn common_lb(at: Place<'_>, value: &cluster::cluster::CommonLbConfig, out: &mut Cluster) -> Outcome<()> {
    let cluster::cluster::CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = value;
    ignored!(at; ignore_new_hosts_until_first_hc, close_connections_on_host_set_change, override_host_status);
    inert!(update_merge_window);
    if let Some(common_lb_config::ConsistentHashingLbConfig { use_hostname_for_hashing, hash_balance_factor }) =
        consistent_hashing_lb_config
    {
        let at = at.field("consistent_hashing_lb_config");
        ignored!(at; use_hostname_for_hashing, hash_balance_factor);
    }
    if let Some(threshold) = healthy_panic_threshold {
        if !(0.0..=100.0).contains(&threshold.value) {
            return Err(at.field("healthy_panic_threshold").refuse("a percentage is between 0 and 100"));
        }
        out.panic_threshold = threshold.value;
    }
    match locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => out.locality_weighted = true,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => at.field("zone_aware_lb_config").ignored(""),
        None => {}
    }
    Ok(())
}

pub(super) fn original_dst(
    at: Place<'_>,
    value: &cluster::cluster::OriginalDstLbConfig,
    out: &mut Cluster,
) -> Outcome<()> {
    let cluster::cluster::OriginalDstLbConfig {
        use_http_header,
        http_header_name,
        upstream_port_override,
        metadata_key,
    } = value;
    refused!(at, "requests would go to another destination"; upstream_port_override, metadata_key);
    if !http_header_name.is_empty() && http_header_name != "x-envoy-original-dst-host" {
        return Err(at.field("http_header_name").refuse("only x-envoy-original-dst-host is supported"));
    }
    out.use_original_dst_header = *use_http_header;
    Ok(())
}
