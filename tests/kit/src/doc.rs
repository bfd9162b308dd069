//! The shell blocks of a Markdown page: which there are, and what is promised about each.
//!
//! Every block fenced as `sh` is run by the tests; a block that a reader should only look at is fenced `console` or
//! `text`. A comment before the fence says more, as parts separated by `;`:
//!
//! ```text
//! <!-- test: NAME; background; ready: TEXT; expect: TEXT; exit: 1; needs: envoy; timeout: 60; skip: REASON -->
//! ```
//!
//! | part | meaning |
//! |---|---|
//! | `NAME` | for messages; without it the block's line is its name |
//! | `background` | the reader runs it in another terminal: it stays until the page ends |
//! | `ready: TEXT` | with `background`: go on when it has written this |
//! | `expect: TEXT` | it writes this, on either stream; may be repeated |
//! | `exit: N` | it ends with this code instead of 0 |
//! | `needs: PEER` | it uses one of [`PROGRAMS`], such as `envoy`, or one of [`SERVERS`], such as `kube` |
//! | `timeout: SECONDS` | it may take so long; 60 unless said |
//! | `skip: REASON` | it is not run |
//!
//! ALWAYS: a comment that cannot be understood, or has no block, is an error: a typo never silences a block.

use std::fmt;
use std::time::Duration;

use crate::Peer;

/// The real programs that blocks may use, by the name that `needs:` and the shell have for each.
pub const PROGRAMS: &[(&str, Peer)] = &[
    ("envoy", Peer::Envoy),
    ("nginx", Peer::Nginx),
    ("wrk", Peer::Wrk),
    ("consul", Peer::Consul),
    ("nomad", Peer::Nomad),
];

/// The real servers that blocks may use: the page is run beside one.
pub const SERVERS: &[(&str, Peer)] = &[("kube", Peer::Kube)];

/// One shell block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its name for messages.
    pub name: String,
    /// The line of its first fence, from 1.
    pub line: usize,
    /// What is run.
    pub script: String,
    /// What is promised about it.
    pub promise: Promise,
}

/// What is promised about a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// Runs until the page ends.
    pub background: bool,
    /// What a block in the background writes when one can go on.
    pub ready: Option<String>,
    /// What it writes.
    pub expect: Vec<String>,
    /// The code it ends with.
    pub exit: i32,
    /// What it needs.
    pub needs: Vec<Peer>,
    /// How long it may take.
    pub timeout: Duration,
    /// Why it is not run.
    pub skip: Option<String>,
}

/// A page that breaks the rules of this module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what to write instead.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl Default for Promise {
    fn default() -> Self {
        Self {
            background: false,
            ready: None,
            expect: Vec::new(),
            exit: 0,
            needs: Vec::new(),
            timeout: Duration::from_secs(60),
            skip: None,
        }
    }
}

/// Finds the shell blocks of a page, in order.
///
/// # Errors
/// A [`Mistake`], for the first comment or fence that is not as the module says.
pub fn blocks(page: &str) -> Result<Vec<Block>, Mistake> {
    let mut found = Vec::new();
    let mut pending: Option<(usize, String, Promise)> = None;
    let mut lines = page.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((line, text)) = lines.next() {
        let unused = |pending: &Option<(usize, String, Promise)>| match pending {
            Some((at, ..)) => Err(mistake(*at, "this comment is not followed by an `sh` block")),
            None => Ok(()),
        };
        if let Some(comment) = text.trim().strip_prefix("<!-- test:") {
            unused(&pending)?;
            let Some(comment) = comment.trim_end().strip_suffix("-->") else {
                return Err(mistake(line, "the comment must end with `-->` on this line"));
            };
            let (name, promise) = promise(comment, line)?;
            pending = Some((line, name, promise));
        } else if let Some(fence) = Fence::open(text) {
            let mut script = String::new();
            loop {
                let Some((_, text)) = lines.next() else {
                    return Err(mistake(line, "this block is not closed"));
                };
                if fence.closes(text) {
                    break;
                }
                script.push_str(fence.without_indent(text));
                script.push('\n');
            }
            match fence.language.as_str() {
                "sh" => {
                    let (_, name, promise) = pending.take().unwrap_or_default();
                    let name = if name.is_empty() { format!("line-{line}") } else { name };
                    found.push(Block { name, line, script, promise });
                }
                "bash" | "shell" | "zsh" => {
                    return Err(mistake(line, "write `sh` for a block that runs, `console` for one that does not"));
                }
                _ => unused(&pending)?,
            }
        } else if !text.trim().is_empty() {
            unused(&pending)?;
        }
    }
    match pending {
        Some((at, ..)) => Err(mistake(at, "this comment is not followed by an `sh` block")),
        None => Ok(found),
    }
}

struct Fence {
    indent: usize,
    mark: char,
    length: usize,
    language: String,
}

// === impl Fence ===

impl Fence {
    fn open(line: &str) -> Option<Self> {
        let trimmed = line.trim_start();
        let mark = trimmed.chars().next().filter(|c| matches!(c, '`' | '~'))?;
        let length = trimmed.chars().take_while(|c| *c == mark).count();
        if length < 3 {
            return None;
        }
        let info = trimmed[length..].trim();
        // An inline code span, not a fence.
        if mark == '`' && info.contains('`') {
            return None;
        }
        let language = info.split([' ', ',', '{']).next().unwrap_or("").to_owned();
        Some(Self { indent: line.len() - trimmed.len(), mark, length, language })
    }

    fn closes(&self, line: &str) -> bool {
        let trimmed = line.trim();
        trimmed.len() >= self.length && trimmed.chars().all(|c| c == self.mark)
    }

    fn without_indent<'a>(&self, line: &'a str) -> &'a str {
        let blanks = line.len() - line.trim_start_matches(' ').len();
        &line[blanks.min(self.indent)..]
    }
}

fn promise(comment: &str, line: usize) -> Result<(String, Promise), Mistake> {
    let mut name = String::new();
    let mut promise = Promise::default();
    for (index, part) in comment.split(';').map(str::trim).enumerate() {
        let (key, value) = match part.split_once(':') {
            Some((key, value)) => (key.trim(), value.trim()),
            None => (part, ""),
        };
        let number = |what: &str| value.parse::<u32>().map_err(|_| mistake(line, &format!("`{key}:` wants {what}")));
        match key {
            "background" if value.is_empty() => promise.background = true,
            "ready" if !value.is_empty() => promise.ready = Some(value.to_owned()),
            "expect" if !value.is_empty() => promise.expect.push(value.to_owned()),
            "exit" => {
                let code = number("an exit code")?;
                promise.exit = i32::try_from(code).map_err(|_| mistake(line, "`exit:` wants an exit code"))?;
            }
            "timeout" => promise.timeout = Duration::from_secs(number("seconds")?.into()),
            "skip" if !value.is_empty() => promise.skip = Some(value.to_owned()),
            "needs" => match PROGRAMS.iter().chain(SERVERS).find(|(name, _)| *name == value) {
                Some((_, peer)) => promise.needs.push(*peer),
                None => {
                    let names: Vec<&str> = PROGRAMS.iter().chain(SERVERS).map(|(name, _)| *name).collect();
                    return Err(mistake(line, &format!("{value:?} is none of {}", names.join(", "))));
                }
            },
            _ if index == 0 && value.is_empty() && !part.contains(':') => part.clone_into(&mut name),
            _ => return Err(mistake(line, &format!("{part:?} is not a part that a test comment has"))),
        }
    }
    if promise.ready.is_some() && !promise.background {
        return Err(mistake(line, "`ready:` belongs to `background`; write `expect:`"));
    }
    if promise.background && (promise.exit != 0 || !promise.expect.is_empty()) {
        return Err(mistake(line, "a block in the background has neither `exit:` nor `expect:`; write `ready:`"));
    }
    Ok((name, promise))
}

fn mistake(line: usize, what: &str) -> Mistake {
    Mistake { line, what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_their_promises_and_others_are_left_alone() {
        let page = "\
# A page

<!-- test: start; background; ready: listening; timeout: 5 -->
```sh
xebec serve
```

```console
$ not run
```

1. In a list:

   <!-- test: ; expect: one; expect: two; exit: 1 -->
   ```sh
   if true; then
     xebec validate
   fi
   ```

````markdown
```sh
an example of a block
```
````

```sh
plain
```
";
        let found = blocks(page).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!((found[0].name.as_str(), found[0].line), ("start", 4));
        assert!(found[0].promise.background);
        assert_eq!(found[0].promise.ready.as_deref(), Some("listening"));
        assert_eq!(found[0].promise.timeout, Duration::from_secs(5));
        assert_eq!(found[1].script, "if true; then\n  xebec validate\nfi\n");
        assert_eq!((found[1].promise.expect.as_slice(), found[1].promise.exit), (&["one".into(), "two".into()][..], 1));
        assert_eq!((found[2].name.as_str(), found[2].promise.clone()), ("line-27", Promise::default()));
    }

    #[test]
    fn a_typo_is_an_error_with_its_line_and_never_silences_a_block() {
        for (page, line, what) in [
            ("\n<!-- test: x; expct: y -->\n```sh\n```\n", 2, "expct: y"),
            ("<!-- test: x -->\ntext\n```sh\n```\n", 1, "not followed"),
            ("<!-- test: x -->\n```yaml\n```\n", 1, "not followed"),
            ("<!-- test: x -->\n", 1, "not followed"),
            ("```bash\n```\n", 1, "write `sh`"),
            ("```sh\nxebec\n", 1, "not closed"),
            ("<!-- test: x; skip: -->\n```sh\n```\n", 1, "skip"),
            ("<!-- test: x; needs: redis -->\n```sh\n```\n", 1, "redis"),
            ("<!-- test: x; ready: y -->\n```sh\n```\n", 1, "background"),
            ("<!-- test: x; timeout: soon -->\n```sh\n```\n", 1, "seconds"),
        ] {
            let mistake = blocks(page).expect_err(page);
            assert!(mistake.line == line && mistake.what.contains(what), "{page:?}: {mistake}");
        }
    }
}
