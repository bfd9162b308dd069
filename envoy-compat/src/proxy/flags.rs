//! Envoy's response flags: one or two letters that say what went wrong.

/// A set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u32);

macro_rules! flags {
    ($($name:ident $text:literal $doc:literal),* $(,)?) => {
        /// Bit positions.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Bit { $($name),* }
        impl Flags {
            $(#[doc = $doc] pub const $name: Self = Self(1 << Bit::$name as u32);)*
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

flags! {
    NO_HEALTHY_UPSTREAM "UH" "no healthy upstream host",
    CONNECTION_FAILURE "UF" "the upstream connection failed",
    OVERFLOW "UO" "a circuit breaker is open",
    NO_ROUTE "NR" "no route",
    RETRY_EXCEEDED "URX" "retries or connect attempts are used up",
    NO_CLUSTER "NC" "the cluster is not known",
    UPSTREAM_TIMEOUT "UT" "the upstream took too long",
    LOCAL_RESET "LR" "the stream was reset here",
    REMOTE_RESET "UR" "the upstream reset the stream",
    UPSTREAM_CLOSED "UC" "the upstream closed the connection",
    DELAY_INJECTED "DI" "a fault delayed the request",
    FAULT_INJECTED "FI" "a fault answered the request",
    CLIENT_CLOSED "DC" "the client went away",
    STREAM_IDLE "SI" "no bytes for too long",
    PROTOCOL_ERROR "UPE" "the upstream's answer is not HTTP",
}

impl Flags {
    /// Adds `other`.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether one of `other` is set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether none is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The letters of all set flags, with commas; `-` if there are none.
    pub fn write(self, out: &mut Vec<u8>) {
        if self.0 == 0 {
            out.push(b'-');
            return;
        }
        let start = out.len();
        for (flag, text) in Self::ALL {
            if self.has(*flag) {
                if out.len() > start {
                    out.push(b',');
                }
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// Whether the flag of these letters is set.
    pub fn has_text(self, letters: &str) -> bool {
        Self::ALL.iter().any(|(flag, text)| *text == letters && self.has(*flag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_envoy_does() {
        let mut flags = Flags::default();
        let mut out = Vec::new();
        flags.write(&mut out);
        flags.set(Flags::RETRY_EXCEEDED);
        flags.set(Flags::CONNECTION_FAILURE);
        out.push(b' ');
        flags.write(&mut out);
        assert_eq!(out, b"- UF,URX");
        assert!(flags.has_text("UF") && !flags.has_text("UH"));
    }
}
