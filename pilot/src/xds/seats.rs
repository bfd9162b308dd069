//! Who subscribed to what, within one shape: the reverse index from a resource to the streams that want it.
//!
//! Names become small numbers here, so that a stream's subscriptions are a bit set (1,000 names in 128 bytes) and so are a
//! name's subscribers. A [`Seat`] is one stream's place in the index, and leaves it when dropped.

use std::sync::Arc;

use futures_util::task::AtomicWaker;
use rustc_hash::FxHashMap;

use super::shape::{Published, Shape};
use crate::resources::{Delta, ResourceType};

/// Where a stream is woken.
#[derive(Debug, Default)]
pub struct Inbox {
    waker: AtomicWaker,
}

/// A set of small numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

/// Every stream of one shape and its subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    inboxes: Vec<Option<Arc<Inbox>>>,
    free: Vec<u32>,
    kinds: [Subscribers; 5],
    touched: Bits,
}

/// The subscribers of one type.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    wildcard: Bits,
    ids: FxHashMap<Arc<str>, u32>,
    names: Vec<Option<Name>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Name {
    text: Arc<str>,
    seats: Bits,
    count: u32,
}

/// One stream's subscriptions.
#[derive(Debug)]
pub struct Seat {
    shape: Arc<Shape>,
    inbox: Arc<Inbox>,
    slot: u32,
    wildcard: [bool; 5],
    names: [Bits; 5],
    counts: [u32; 5],
}

// === impl Inbox ===

impl Inbox {
    /// Has the stream look at its shape.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Says whom to wake. Register first, look afterwards: nothing is missed then.
    pub fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }
}

// === impl Bits ===

impl Bits {
    fn insert(&mut self, bit: u32) -> bool {
        let (word, mask) = (bit as usize / 64, 1_u64 << (bit % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] & mask == 0;
        self.words[word] |= mask;
        fresh
    }

    fn remove(&mut self, bit: u32) -> bool {
        let mask = 1_u64 << (bit % 64);
        let Some(word) = self.words.get_mut(bit as usize / 64) else { return false };
        let present = *word & mask != 0;
        *word &= !mask;
        present
    }

    fn contains(&self, bit: u32) -> bool {
        self.words.get(bit as usize / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    fn union_with(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
    }

    fn clear(&mut self) {
        self.words.fill(0);
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    index as u32 * 64 + bit
                })
            })
        })
    }
}

// === impl Seats ===

impl Seats {
    fn sit(&mut self, inbox: &Arc<Inbox>) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.inboxes[slot as usize] = Some(Arc::clone(inbox));
            return slot;
        }
        self.inboxes.push(Some(Arc::clone(inbox)));
        (self.inboxes.len() - 1) as u32
    }

    fn leave(&mut self, slot: u32) {
        self.inboxes[slot as usize] = None;
        self.free.push(slot);
    }

    /// How many streams sit here.
    pub(crate) fn len(&self) -> usize {
        self.inboxes.len() - self.free.len()
    }

    /// Wakes the subscribers of everything that `delta` names, each once.
    pub(crate) fn wake(&mut self, delta: &Delta) {
        self.touched.clear();
        for kind in ResourceType::ALL {
            let names = &delta.names[kind as usize];
            let subscribers = &self.kinds[kind as usize];
            if names.is_empty() {
                continue;
            }
            self.touched.union_with(&subscribers.wildcard);
            for name in names {
                if let Some(entry) = subscribers.ids.get(name).and_then(|id| subscribers.names[*id as usize].as_ref()) {
                    self.touched.union_with(&entry.seats);
                }
            }
        }
        for slot in self.touched.iter() {
            if let Some(inbox) = self.inboxes.get(slot as usize).and_then(Option::as_ref) {
                inbox.wake();
            }
        }
    }
}

// === impl Subscribers ===

impl Subscribers {
    fn id_for(&mut self, name: &str) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let text: Arc<str> = name.into();
        let entry = Some(Name { text: Arc::clone(&text), seats: Bits::default(), count: 0 });
        let id = match self.free.pop() {
            Some(id) => {
                self.names[id as usize] = entry;
                id
            }
            None => {
                self.names.push(entry);
                (self.names.len() - 1) as u32
            }
        };
        self.ids.insert(text, id);
        id
    }

    /// Adds `slot` to the subscribers of `id`.
    fn add(&mut self, id: u32, slot: u32) -> Option<Arc<str>> {
        let entry = self.names[id as usize].as_mut()?;
        if entry.seats.insert(slot) {
            entry.count += 1;
        }
        Some(Arc::clone(&entry.text))
    }

    /// Takes `slot` from the subscribers of `id`; a name without subscribers is forgotten.
    fn take(&mut self, id: u32, slot: u32) -> Option<Arc<str>> {
        let place = self.names.get_mut(id as usize)?;
        let entry = place.as_mut()?;
        if entry.seats.remove(slot) {
            entry.count -= 1;
        }
        let text = Arc::clone(&entry.text);
        if entry.count == 0 {
            *place = None;
            self.ids.remove(&text);
            self.free.push(id);
        }
        Some(text)
    }
}

// === impl Seat ===

impl Seat {
    /// Sits down at `shape` without any subscription.
    pub fn new(shape: Arc<Shape>, inbox: Arc<Inbox>) -> Self {
        let slot = shape.seats.lock().sit(&inbox);
        Self { shape, inbox, slot, wildcard: [false; 5], names: Default::default(), counts: [0; 5] }
    }

    /// The shape that this stream is served from.
    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// What is served there at this moment.
    pub fn published(&self) -> Arc<Published> {
        self.shape.published()
    }

    /// Takes all subscriptions along to another shape.
    pub fn move_to(&mut self, shape: Arc<Shape>) {
        let mut next = Self::new(shape, Arc::clone(&self.inbox));
        for kind in ResourceType::ALL {
            next.set_wildcard(kind, self.is_wildcard(kind));
            let names = self.names(kind);
            next.subscribe(kind, names.iter().map(|n| &**n), |_| {});
        }
        *self = next;
    }

    /// Whether everything of `kind` is subscribed.
    pub fn is_wildcard(&self, kind: ResourceType) -> bool {
        self.wildcard[kind as usize]
    }

    /// Subscribes to everything of `kind`, or no longer.
    pub fn set_wildcard(&mut self, kind: ResourceType, on: bool) {
        if self.wildcard[kind as usize] == on {
            return;
        }
        self.wildcard[kind as usize] = on;
        let mut seats = self.shape.seats.lock();
        let set = &mut seats.kinds[kind as usize].wildcard;
        if on {
            set.insert(self.slot)
        } else {
            set.remove(self.slot)
        };
    }

    /// How many names of all kinds are subscribed.
    pub fn count(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Subscribes by name; `each` is told every name of the list, also those that were subscribed before.
    pub fn subscribe<'a>(
        &mut self,
        kind: ResourceType,
        names: impl IntoIterator<Item = &'a str>,
        mut each: impl FnMut(Arc<str>),
    ) {
        let mut seats = self.shape.seats.lock();
        let subscribers = &mut seats.kinds[kind as usize];
        for name in names {
            let id = subscribers.id_for(name);
            if self.names[kind as usize].insert(id) {
                self.counts[kind as usize] += 1;
            }
            if let Some(text) = subscribers.add(id, self.slot) {
                each(text);
            }
        }
    }

    /// Ends subscriptions by name; `each` is told the names that had been subscribed.
    pub fn unsubscribe<'a>(
        &mut self,
        kind: ResourceType,
        names: impl IntoIterator<Item = &'a str>,
        mut each: impl FnMut(Arc<str>),
    ) {
        let mut seats = self.shape.seats.lock();
        let subscribers = &mut seats.kinds[kind as usize];
        for name in names {
            let Some(id) = subscribers.ids.get(name).copied() else { continue };
            if self.names[kind as usize].remove(id) {
                self.counts[kind as usize] -= 1;
                if let Some(text) = subscribers.take(id, self.slot) {
                    each(text);
                }
            }
        }
    }

    /// Makes `names` the whole subscription by name. `added` is told those that are new; the rest is silent.
    pub fn replace(&mut self, kind: ResourceType, names: &[&str], mut added: impl FnMut(Arc<str>)) {
        let mut seats = self.shape.seats.lock();
        let subscribers = &mut seats.kinds[kind as usize];
        let mut next = Bits::default();
        let mut count = 0;
        for name in names {
            let id = subscribers.id_for(name);
            if !next.insert(id) {
                continue;
            }
            count += 1;
            let text = subscribers.add(id, self.slot);
            if !self.names[kind as usize].contains(id)
                && let Some(text) = text
            {
                added(text);
            }
        }
        for id in self.names[kind as usize].iter() {
            if !next.contains(id) {
                subscribers.take(id, self.slot);
            }
        }
        self.names[kind as usize] = next;
        self.counts[kind as usize] = count;
    }

    /// Runs `f` with a test for "is this name subscribed", by name or because everything is.
    pub fn filter<R>(&self, kind: ResourceType, f: impl FnOnce(&dyn Fn(&str) -> bool) -> R) -> R {
        if self.wildcard[kind as usize] {
            return f(&|_| true);
        }
        let seats = self.shape.seats.lock();
        let subscribers = &seats.kinds[kind as usize];
        let mine = &self.names[kind as usize];
        f(&|name| subscribers.ids.get(name).is_some_and(|id| mine.contains(*id)))
    }

    /// Whether `name` is subscribed by name.
    pub fn names_it(&self, kind: ResourceType, name: &str) -> bool {
        let seats = self.shape.seats.lock();
        seats.kinds[kind as usize].ids.get(name).is_some_and(|id| self.names[kind as usize].contains(*id))
    }

    /// The names that are subscribed by name.
    pub fn names(&self, kind: ResourceType) -> Vec<Arc<str>> {
        let seats = self.shape.seats.lock();
        let all = &seats.kinds[kind as usize].names;
        self.names[kind as usize]
            .iter()
            .filter_map(|id| all[id as usize].as_ref().map(|n| Arc::clone(&n.text)))
            .collect()
    }

    /// How many names of `kind` are subscribed by name.
    pub fn count_of(&self, kind: ResourceType) -> u32 {
        self.counts[kind as usize]
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.shape.seats.lock();
        for kind in ResourceType::ALL {
            let subscribers = &mut seats.kinds[kind as usize];
            subscribers.wildcard.remove(self.slot);
            for id in self.names[kind as usize].iter() {
                subscribers.take(id, self.slot);
            }
        }
        seats.leave(self.slot);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;
    use crate::xds::fixture::{delta_of, snapshot};

    struct Bell(AtomicUsize);
    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn seat(shape: &Arc<Shape>) -> (Seat, Arc<Bell>) {
        let inbox = Arc::new(Inbox::default());
        let bell = Arc::new(Bell(AtomicUsize::new(0)));
        inbox.register(&Waker::from(Arc::clone(&bell)));
        (Seat::new(Arc::clone(shape), inbox), bell)
    }

    fn rings(bell: &Bell) -> usize {
        bell.0.load(Ordering::SeqCst)
    }

    #[test]
    fn a_change_wakes_its_subscribers_once_and_nobody_else() {
        let first = snapshot(&[("c/a", 1), ("c/b", 1), ("e/a", 1), ("e/b", 1)]);
        let last = snapshot(&[("c/a", 1), ("c/b", 2), ("e/a", 1), ("e/b", 2)]);
        let shape = Shape::new(first.clone());
        let (mut all, all_bell) = seat(&shape);
        all.set_wildcard(ResourceType::Cluster, true);
        all.subscribe(ResourceType::Endpoint, ["b"], |_| {});
        let (mut other, other_bell) = seat(&shape);
        other.subscribe(ResourceType::Endpoint, ["a"], |_| {});
        let (mut gone, gone_bell) = seat(&shape);
        gone.subscribe(ResourceType::Endpoint, ["b"], |_| {});
        gone.unsubscribe(ResourceType::Endpoint, ["b"], |_| {});
        shape.publish(last.clone(), &delta_of(&first, &last));
        assert_eq!((rings(&all_bell), rings(&other_bell), rings(&gone_bell)), (1, 0, 0));
    }

    #[test]
    fn a_dropped_seat_leaves_nothing_behind() {
        let shape = Shape::new(snapshot(&[("e/a", 1)]));
        let (mut first, _) = seat(&shape);
        first.subscribe(ResourceType::Endpoint, ["a", "unknown"], |_| {});
        first.set_wildcard(ResourceType::Listener, true);
        assert_eq!(shape.streams(), 1);
        drop(first);
        assert_eq!(shape.streams(), 0);
        let seats = shape.seats.lock();
        assert!(seats.kinds.iter().all(|k| k.ids.is_empty() && k.wildcard.iter().next().is_none()));
    }

    #[test]
    fn replacing_names_tells_the_new_ones_and_drops_the_missing_ones() {
        let shape = Shape::new(snapshot(&[]));
        let (mut s, _) = seat(&shape);
        s.replace(ResourceType::Route, &["80", "81"], |_| {});
        let mut added = Vec::new();
        s.replace(ResourceType::Route, &["81", "82", "82"], |n| added.push(n));
        assert_eq!(added, vec![Arc::from("82")]);
        assert_eq!(s.count_of(ResourceType::Route), 2);
        let mut names = s.names(ResourceType::Route);
        names.sort();
        assert_eq!(names, vec![Arc::from("81"), Arc::from("82")]);
        assert!(!s.names_it(ResourceType::Route, "80"));
    }

    #[test]
    fn a_move_takes_the_subscriptions_along() {
        let (here, there) = (Shape::new(snapshot(&[])), Shape::new(snapshot(&[("e/a", 1)])));
        let (mut s, _) = seat(&here);
        s.set_wildcard(ResourceType::Cluster, true);
        s.subscribe(ResourceType::Endpoint, ["a"], |_| {});
        s.move_to(Arc::clone(&there));
        assert_eq!((here.streams(), there.streams()), (0, 1));
        assert!(s.is_wildcard(ResourceType::Cluster) && s.names_it(ResourceType::Endpoint, "a"));
    }
}
