//! Which answers are believed, and what to ask next: the rules of Consul's blocking queries, without any I/O.
//!
//! - ALWAYS: an index that goes back is forgotten: a poll with a too high index would miss everything until its wait ends.
//! - ALWAYS: an index is at least 1: with 0 Consul answers at once, and the loop would never rest.
//! - ALWAYS: an answer is not a change: equal content is none.
//! - NEVER: an answer of a server that knows no leader counts.

use std::time::Duration;

use xebec_adapter_client::Answer;
use xxhash_rust::xxh3::xxh3_64;

/// What is known of one poll from its last answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Polled {
    /// Where the next poll continues; `None` asks without waiting.
    pub(crate) index: Option<u64>,
    /// What is known is as new as this. A server that says less may not have read its log to the end.
    floor: u64,
    hash: Option<u64>,
    /// Answers in a row that came early and said nothing.
    idle: u32,
}

/// What an answer's headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Head {
    pub(crate) index: Option<u64>,
    /// False: the server knows no leader. Absent is taken for true, since proxies drop headers; and what the streaming backend of
    /// Consul 1.10 and newer answers always says false, whether there is a leader or not.
    pub(crate) leader: bool,
    /// Rows are missing that the token may not see.
    pub(crate) filtered: bool,
    /// ACLs are on, and what no token allows is denied.
    pub(crate) denies: bool,
}

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It says what the last one said.
    Same,
    /// It says something else.
    Changed,
    /// Its index went back, as after a restore, or on a server that lags behind: the leader has to be asked.
    WentBack,
    /// The server knows no leader: it may have forgotten anything.
    NoLeader,
}

/// An early answer that says nothing is one that came before this much of the wait was over.
const EARLY: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

// === impl Head ===

impl Head {
    pub(crate) fn of(answer: &Answer) -> Self {
        Self::read(&answer.headers)
    }

    pub(crate) fn read(headers: &xebec_adapter_client::HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            index: text("x-consul-index").and_then(|index| index.parse().ok()),
            leader: text("x-consul-knownleader") != Some("false")
                || text("x-consul-query-backend") == Some("streaming"),
            filtered: text("x-consul-results-filtered-by-acls") == Some("true"),
            denies: text("x-consul-default-acl-policy") == Some("deny"),
        }
    }
}

// === impl Polled ===

impl Polled {
    /// Judges an answer that came after `took`. `confirmed` is true when the leader gave it, in place of an answer that came after `took`.
    pub(crate) fn judge(&mut self, head: Head, body: &[u8], took: Duration, confirmed: bool) -> Verdict {
        if !head.leader {
            self.index = None;
            return Verdict::NoLeader;
        }
        let index = head.index.unwrap_or(0).max(1);
        if !confirmed && index < self.floor {
            self.index = None;
            return Verdict::WentBack;
        }
        self.floor = index;
        // What the leader confirms is the answer to a poll whose index was forgotten meanwhile.
        let waited = confirmed || self.index.is_some();
        // Without an index from Consul there is nothing to wait for.
        self.index = head.index.map(|_| index);
        let hash = xxh3_64(body);
        if self.hash == Some(hash) {
            self.idle = if waited && took < EARLY { self.idle.saturating_add(1) } else { 0 };
            return Verdict::Same;
        }
        self.idle = 0;
        self.hash = Some(hash);
        Verdict::Changed
    }

    /// Whether there was an answer ever.
    pub(crate) fn is_known(&self) -> bool {
        self.floor > 0
    }

    /// An answer was not believed after all: the same one counts as a change again.
    pub(crate) fn doubt(&mut self) {
        self.hash = None;
        self.index = None;
    }

    /// How long to rest before the next poll: not at all, unless Consul keeps answering early without anything new.
    pub(crate) fn pause(&self) -> Duration {
        match self.idle {
            0..=2 if self.index.is_some() => Duration::ZERO,
            0..=2 => Duration::from_secs(1),
            many => (Duration::from_millis(100) * 2_u32.saturating_pow((many - 3).min(10))).min(LONGEST_PAUSE),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head(index: u64) -> Head {
        Head { index: Some(index), leader: true, ..Head::default() }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn an_answer_is_a_change_only_when_it_says_something_else() {
        let mut polled = Polled::default();
        assert_eq!(polled.judge(head(7), b"a", LONG, false), Verdict::Changed);
        assert_eq!(polled.index, Some(7));
        assert_eq!(polled.judge(head(8), b"a", LONG, false), Verdict::Same);
        assert_eq!(polled.judge(head(8), b"b", LONG, false), Verdict::Changed);
        assert_eq!(polled.index, Some(8));
    }

    #[test]
    fn an_index_is_at_least_one_and_forgotten_when_it_goes_back() {
        let mut polled = Polled::default();
        polled.judge(head(0), b"a", LONG, false);
        assert_eq!(polled.index, Some(1));
        polled.judge(head(9), b"a", LONG, false);
        assert_eq!(polled.judge(head(3), b"", LONG, false), Verdict::WentBack);
        assert_eq!(polled.index, None, "the next poll does not wait");
        assert_eq!(polled.judge(head(3), b"", LONG, true), Verdict::Changed);
        assert_eq!(polled.index, Some(3));
    }

    #[test]
    fn a_server_without_a_leader_says_nothing() {
        let mut polled = Polled::default();
        polled.judge(head(9), b"a", LONG, false);
        assert_eq!(polled.judge(Head { leader: false, ..head(9) }, b"[]", LONG, false), Verdict::NoLeader);
        assert_eq!(polled.judge(head(9), b"a", LONG, false), Verdict::Same);
    }

    #[test]
    fn a_server_that_has_a_leader_again_and_knows_less_than_before_is_not_believed() {
        let mut polled = Polled::default();
        polled.judge(head(9), b"a", LONG, false);
        polled.judge(Head { leader: false, ..head(2) }, b"[]", LONG, false);
        assert_eq!(polled.judge(head(4), b"[]", LONG, false), Verdict::WentBack);
        polled.doubt();
        assert_eq!(polled.judge(head(5), b"[]", LONG, false), Verdict::WentBack);
        assert_eq!(polled.judge(head(5), b"[]", LONG, true), Verdict::Changed, "the leader says so");
        assert_eq!(polled.judge(head(6), b"b", LONG, false), Verdict::Changed);
    }

    #[test]
    fn what_the_streaming_backend_says_about_leaders_means_nothing() {
        let read = |backend: &'static str| {
            let mut headers = xebec_adapter_client::HeaderMap::new();
            headers.insert("x-consul-knownleader", "false".parse().unwrap());
            headers.insert("x-consul-query-backend", backend.parse().unwrap());
            Head::read(&headers).leader
        };
        assert!(read("streaming"));
        assert!(!read("blocking-query"));
    }

    #[test]
    fn an_index_that_keeps_going_back_and_forth_slows_the_loop_down() {
        let mut polled = Polled::default();
        polled.judge(head(9), b"a", LONG, false);
        let early = Duration::from_millis(1);
        for _ in 0..8 {
            assert_eq!(polled.judge(head(3), b"a", early, false), Verdict::WentBack);
            assert_eq!(polled.judge(head(9), b"a", early, true), Verdict::Same);
        }
        assert!(polled.pause() >= Duration::from_secs(1), "{:?}", polled.pause());
    }

    #[test]
    fn early_answers_that_say_nothing_slow_the_loop_down_and_a_change_speeds_it_up_again() {
        let mut polled = Polled::default();
        let early = Duration::from_millis(1);
        for _ in 0..3 {
            polled.judge(head(5), b"a", early, false);
            assert_eq!(polled.pause(), Duration::ZERO);
        }
        for _ in 0..40 {
            polled.judge(head(5), b"a", early, false);
        }
        assert_eq!(polled.pause(), LONGEST_PAUSE);
        polled.judge(head(6), b"b", early, false);
        assert_eq!(polled.pause(), Duration::ZERO);
        let mut without = Polled::default();
        without.judge(Head { index: None, ..head(0) }, b"a", early, false);
        assert_eq!(without.pause(), Duration::from_secs(1), "no index, nothing to wait for");
    }
}
