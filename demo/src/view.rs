//! The live table: who calls whom, how often, how well, and which version answers; below it, what to try.
//!
//! Where standard output is no terminal, a line per second says the same in short.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout as Split};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, Wrap};
use tokio_util::sync::CancellationToken;

use crate::config::{Layout, TRIES, undo_commands};
use crate::load::{Load, Totals};
use crate::plan::Plan;
use crate::stats::{Edge, Snapshot, Stats, Tally};

/// Rates, errors and shares are of this long: long enough for some calls, and short enough that a change is seen at once.
const WINDOW: Duration = Duration::from_secs(2);

/// How often the table is drawn.
const FRAME: Duration = Duration::from_millis(250);

/// Lines for the last problem.
const PROBLEM_LINES: u16 = 3;

/// What the log says, for a terminal that shows something else.
#[derive(Clone, Copy)]
pub struct Log<'a> {
    /// Where all of it is; `None` when it is on the terminal.
    pub path: Option<&'a Path>,
    /// The last problem in short, and when it was written.
    pub last: &'a (dyn Fn() -> Option<(Instant, String)> + Sync),
}

/// What is shown at one time.
struct Scene<'a> {
    plan: &'a Plan,
    layout: &'a Layout,
    totals: Totals,
    /// What happened within the window, and how long that is.
    edges: BTreeMap<Edge, Tally>,
    window: Duration,
    log: Option<&'a Path>,
    problem: Option<(Instant, String)>,
}

/// Snapshots of the last seconds.
struct Recent(VecDeque<Snapshot>);

/// Shows the mesh at work until `stop` is cancelled or the user ends it with `q`, Escape or Ctrl-C; `stop` is cancelled then.
///
/// # Errors
/// When the terminal or standard output fails.
pub async fn run_view(
    plan: &Plan,
    layout: &Layout,
    stats: &Stats,
    load: &Load,
    stop: &CancellationToken,
    log: Log<'_>,
) -> io::Result<()> {
    let result = if draws() {
        table(plan, layout, stats, load, stop, log).await
    } else {
        lines(plan, layout, stats, load, stop).await
    };
    stop.cancel();
    match result {
        // Whoever read our lines has enough of them.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Whether [`run_view`] takes the whole terminal. Whatever else is written there then spoils the table.
pub fn draws() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

async fn table(
    plan: &Plan,
    layout: &Layout,
    stats: &Stats,
    load: &Load,
    stop: &CancellationToken,
    log: Log<'_>,
) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let keys = tokio::task::spawn_blocking({
        let stop = stop.clone();
        move || watch_keys(&stop)
    });
    let mut recent = Recent(VecDeque::new());
    let mut ticks = tokio::time::interval(FRAME);
    let result = loop {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            break Ok(());
        }
        let (edges, window) = recent.next(stats.snapshot(), WINDOW);
        let problem = (log.last)();
        let scene = Scene { plan, layout, totals: load.totals(), edges, window, log: log.path, problem };
        if let Err(error) = terminal.draw(|frame| scene.draw(frame)) {
            break Err(error);
        }
    };
    stop.cancel();
    let restored = ratatui::try_restore();
    let _ = keys.await;
    result.and(restored)
}

/// Cancels `stop` when the user wants to leave. In the terminal's raw mode, Ctrl-C is a key like any other.
fn watch_keys(stop: &CancellationToken) {
    while !stop.is_cancelled() {
        match event::poll(FRAME).and_then(|ready| if ready { event::read().map(Some) } else { Ok(None) }) {
            Ok(Some(event)) if is_end(&event) => stop.cancel(),
            Ok(_) => {}
            // Without a keyboard there are still signals.
            Err(_) => return,
        }
    }
}

fn is_end(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

async fn lines(plan: &Plan, layout: &Layout, stats: &Stats, load: &Load, stop: &CancellationToken) -> io::Result<()> {
    writeln!(io::stdout(), "{}", introduction(plan, layout))?;
    let mut recent = Recent(VecDeque::new());
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let (edges, window) = recent.next(stats.snapshot(), WINDOW);
        let scene = Scene { plan, layout, totals: load.totals(), edges, window, log: None, problem: None };
        writeln!(io::stdout(), "{}", scene.line())?;
    }
    Ok(())
}

fn introduction(plan: &Plan, layout: &Layout) -> String {
    let mut text = format!("The shop is at http://{}/. Things to try, in another terminal:\n", plan.gateway);
    for line in what_to_try(layout) {
        text.push_str(&format!("  {line}\n"));
    }
    text + "Ctrl-C ends."
}

/// Lines for a shell: where, then each change below its comment, then the way back. Each is short, to be copied whole.
fn what_to_try(layout: &Layout) -> Vec<String> {
    let mut lines = vec![layout.enter_command()];
    for change in &TRIES {
        lines.extend([format!("# {}", change.title), change.command()]);
    }
    lines.push("# normal again".to_owned());
    lines.extend(undo_commands());
    lines
}

// === impl Recent ===

impl Recent {
    /// Adds the newest snapshot, forgets those older than `window`, and gives the difference to the oldest that is left.
    fn next(&mut self, newest: Snapshot, window: Duration) -> (BTreeMap<Edge, Tally>, Duration) {
        // One snapshot that is as old as the window stays.
        while self.0.get(1).is_some_and(|second| newest.at.saturating_duration_since(second.at) >= window) {
            self.0.pop_front();
        }
        let result = match self.0.front() {
            Some(oldest) => (newest.since(oldest), newest.at.saturating_duration_since(oldest.at)),
            None => (BTreeMap::new(), Duration::ZERO),
        };
        self.0.push_back(newest);
        result
    }
}

// === impl Scene ===

impl Scene<'_> {
    fn rate(&self, tally: &Tally) -> f64 {
        if self.window.is_zero() { 0.0 } else { tally.requests as f64 / self.window.as_secs_f64() }
    }

    /// Everything in one line.
    fn line(&self) -> String {
        let to = |service: &str| {
            let mut sum = Tally::default();
            for (_, tally) in self.edges.iter().filter(|(edge, _)| edge.to == service) {
                sum.requests += tally.requests;
                sum.errors += tally.errors;
                sum.latency.add(&tally.latency);
                tally
                    .versions
                    .iter()
                    .for_each(|(version, count)| *sum.versions.entry(version.clone()).or_default() += count);
            }
            sum
        };
        let (front, reviews, ratings) = (to("front"), to("reviews"), to("ratings"));
        format!(
            "{:.1} requests/s, {} answered, {} failed, p50 {}, p99 {}; reviews {}; ratings errors {}",
            self.rate(&front),
            self.totals.ok,
            self.totals.failed,
            latency(&front, 0.5),
            latency(&front, 0.99),
            if reviews.shares().is_empty() { "-".to_owned() } else { reviews.shares() },
            errors(&ratings),
        )
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = self.edges.len().max(1) as u16 + 1;
        let areas = Split::vertical([
            Constraint::Length(2),
            Constraint::Length(rows + 1),
            Constraint::Min(0),
            Constraint::Length(if self.problem.is_some() { PROBLEM_LINES } else { 0 }),
            Constraint::Length(1),
        ])
        .split(frame.area());
        frame.render_widget(self.title(), areas[0]);
        frame.render_widget(self.calls(), areas[1]);
        frame.render_widget(self.tries(), areas[2]);
        if let Some((at, text)) = &self.problem {
            let text = format!("{} s ago: {text}", at.elapsed().as_secs());
            let problem = Paragraph::new(text).style(Style::new().fg(Color::Red)).wrap(Wrap { trim: true });
            frame.render_widget(problem, areas[3]);
        }
        frame.render_widget(self.footer(), areas[4]);
    }

    fn footer(&self) -> Line<'static> {
        let mut text = format!("q ends   numbers: last {} s", WINDOW.as_secs());
        if let Some(path) = self.log {
            text.push_str(&format!("   log: {}", path.display()));
        }
        Line::styled(text, Style::new().add_modifier(Modifier::DIM))
    }

    fn title(&self) -> Line<'static> {
        let Totals { ok, failed, .. } = self.totals;
        let bad = if failed > 0 { Style::new().fg(Color::Red) } else { Style::new().fg(Color::Green) };
        Line::from(vec![
            Span::styled(
                format!("The shop at http://{}/", self.plan.gateway),
                Style::new().add_modifier(Modifier::BOLD),
            ),
            Span::raw(format!("   {ok} answered, ")),
            Span::styled(format!("{failed} failed"), bad),
        ])
    }

    fn calls(&self) -> Table<'static> {
        let heading = Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
        let rows = self.edges.iter().map(|(edge, tally)| {
            let style = if tally.errors > 0 { Style::new().fg(Color::Red) } else { Style::new() };
            Row::new(vec![
                Cell::from(edge.from.clone()),
                Cell::from(edge.to.clone()),
                Cell::from(format!("{:>6.1}", self.rate(tally))),
                Cell::from(format!("{:>7}", errors(tally))).style(style),
                Cell::from(format!("{:>8}", latency(tally, 0.5))),
                Cell::from(format!("{:>8}", latency(tally, 0.99))),
                Cell::from(format!(" {}", tally.shares())),
            ])
        });
        // Together with three versions' shares, as wide as the narrowest usual terminal.
        let widths = [10, 9, 6, 7, 8, 8].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
        Table::new(rows, widths)
            .header(
                Row::new(["caller", "calls", " req/s", " errors", "     p50", "     p99", " versions"]).style(heading),
            )
            .column_spacing(1)
    }

    fn tries(&self) -> Paragraph<'static> {
        let mut lines = vec![Line::styled("Try, in another terminal:", Style::new().add_modifier(Modifier::BOLD))];
        for line in what_to_try(self.layout) {
            let style = if line.starts_with('#') { Style::new().fg(Color::Cyan) } else { Style::new() };
            lines.push(Line::styled(line, style));
        }
        Paragraph::new(lines)
    }
}

/// `2.4 ms`, `1.2 s`, or a dash.
fn latency(tally: &Tally, quantile: f64) -> String {
    tally
        .latency
        .quantile(quantile)
        .map(|time| time.as_secs_f64())
        .map_or_else(|| "-".to_owned(), |s| if s < 1.0 { format!("{:.1} ms", s * 1000.0) } else { format!("{s:.1} s") })
}

fn errors(tally: &Tally) -> String {
    let percent = (tally.errors * 100).div_ceil(tally.requests.max(1));
    format!("{percent} %")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyEvent;

    fn edges() -> (BTreeMap<Edge, Tally>, Duration) {
        let stats = Stats::default();
        let mut recent = Recent(VecDeque::new());
        recent.next(Snapshot { at: Instant::now() - Duration::from_secs(10), ..stats.snapshot() }, WINDOW);
        for number in 0..100u64 {
            let version = if number.is_multiple_of(10) { "v2" } else { "v1" };
            stats.record("front-v1", "reviews", Duration::from_millis(2), false, Some(version));
            stats.record("reviews-v2", "ratings", Duration::from_millis(1), number.is_multiple_of(2), None);
        }
        stats.record("you", "front", Duration::from_millis(5), false, Some("v1"));
        let (edges, window) = recent.next(stats.snapshot(), WINDOW);
        assert!(window >= Duration::from_secs(10));
        (edges, Duration::from_secs(10))
    }

    fn rows(scene: &Scene<'_>, width: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, 24)).unwrap();
        terminal.draw(|frame| scene.draw(frame)).unwrap();
        let cells = terminal.backend().buffer().content();
        let row = |row: &[ratatui::buffer::Cell]| row.iter().map(|cell| cell.symbol()).collect::<String>();
        cells.chunks(width.into()).map(|cells| row(cells).trim_end().to_owned()).collect()
    }

    #[test]
    fn the_table_shows_rates_errors_shares_and_what_to_try() {
        let plan = Plan::pick(0).unwrap();
        let layout = Layout::new(Path::new("/shop"));
        let (edges, window) = edges();
        let totals = Totals { sent: 3, ok: 2, failed: 1 };
        let scene = Scene { plan: &plan, layout: &layout, totals, edges, window, log: None, problem: None };
        let text = rows(&scene, 100);
        let row = |start: &str| {
            text.iter().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text:#?}"))
        };
        let reviews = row("front-v1");
        for part in ["reviews", "10.0", "0 %", "v1 90 %, v2 10 %"] {
            assert!(reviews.contains(part), "{part}: {reviews}");
        }
        assert!(row("reviews-v2").contains("50 %"));
        assert!(row("The shop").contains("2 answered, 1 failed"));
        assert!(row("q ends").contains("last 2 s"));
        let line = scene.line();
        for part in ["0.1 requests/s", "1 failed", "reviews v1 90 %, v2 10 %", "ratings errors 50 %"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }

    #[test]
    fn eighty_columns_and_twenty_four_lines_hold_the_busiest_table_and_every_line_to_copy() {
        let plan = Plan::pick(0).unwrap();
        let layout = Layout::new(Path::new("/tmp/xebec-demo-12345"));
        let stats = Stats::default();
        let before = stats.snapshot();
        for (from, to) in [
            ("front-v1", "catalogue"),
            ("front-v1", "reviews"),
            ("reviews-v2", "ratings"),
            ("reviews-v3", "ratings"),
            ("you", "front"),
        ] {
            for number in 0..99 {
                let version = ["v1", "v2", "v3"][number % 3];
                stats.record(from, to, Duration::from_millis(12345), true, Some(version));
            }
        }
        let problem = "/tmp/xebec-demo-12345/rules/ratings.yaml:6:7: error: a `key: value` cannot stand here; \
                       help: check the indentation, and put texts that contain `: ` in quotes";
        let path = layout.log();
        let scene = Scene {
            plan: &plan,
            layout: &layout,
            totals: Totals { sent: 123_456, ok: 123_455, failed: 1 },
            edges: stats.snapshot().since(&before),
            window: Duration::from_secs(2),
            log: Some(&path),
            problem: Some((Instant::now(), problem.to_owned())),
        };
        let text = rows(&scene, 80);
        for (from, to) in [("front-v1", "reviews"), ("reviews-v3", "ratings"), ("you", "front")] {
            let whole = |line: &&String| line.starts_with(from) && line.contains(to);
            let row = text.iter().find(whole).unwrap_or_else(|| panic!("{from}: {text:#?}"));
            assert!(row.contains("49.5") && row.contains(" 100 % "), "{row}");
            assert!(row.ends_with("v1 33 %, v2 33 %, v3 33 %"), "{row}");
        }
        let wanted = what_to_try(&layout);
        assert_eq!(wanted.len(), 1 + 2 * TRIES.len() + 3, "{wanted:?}");
        let at = text.iter().position(|line| *line == wanted[0]).unwrap_or_else(|| panic!("{text:#?}"));
        assert_eq!(text[at..at + wanted.len()], wanted);
        let problem: Vec<_> = text[20..23].iter().map(String::as_str).collect();
        assert!(problem.join(" ").contains("ratings.yaml:6:7: error: a `key: value` cannot stand here"), "{text:#?}");
        assert!(text[23].ends_with("log: /tmp/xebec-demo-12345/demo.log"), "{}", text[23]);
    }

    #[test]
    fn old_snapshots_are_forgotten() {
        let mut recent = Recent(VecDeque::new());
        let start = Instant::now();
        for tick in 0..100 {
            let at = start + FRAME * tick;
            let (_, window) = recent.next(Snapshot { at, edges: BTreeMap::new() }, WINDOW);
            assert!(window <= WINDOW, "{window:?}");
        }
        assert!(recent.0.len() <= 10, "{}", recent.0.len());
    }

    #[test]
    fn q_escape_and_control_c_end_and_other_keys_do_not() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        assert!(is_end(&key(KeyCode::Char('q'), KeyModifiers::NONE)));
        assert!(is_end(&key(KeyCode::Esc, KeyModifiers::NONE)));
        assert!(is_end(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!is_end(&key(KeyCode::Char('c'), KeyModifiers::NONE)));
        assert!(!is_end(&Event::FocusGained));
    }
}
