//! What is known of the threads of other blocks.
//!
//! Blocks have numbers, and what is known of many of them is shared by all who have heard of it: a tree whose nodes are never
//! changed. Two trees are joined where they differ, so that a chain of blocks, each of which knows all before it, takes no more
//! room than a path for each.

use std::sync::Arc;

use super::clocks::Times;

/// Children of a node, as a power of two.
const SHIFT: u32 = 5;
const FAN: usize = 1 << SHIFT;

/// Times by block.
#[derive(Clone, Debug, Default)]
pub(super) struct Others {
    root: Option<Arc<Node>>,
    /// Levels of nodes below the root.
    height: u32,
}

#[derive(Debug)]
enum Node {
    Fork([Option<Arc<Node>>; FAN]),
    Leaf([Option<Arc<Times>>; FAN]),
}

use Node::{Fork, Leaf};

/// The child on the way to a block.
#[inline]
fn slot(block: u32, height: u32) -> usize {
    (block >> (SHIFT * height)) as usize % FAN
}

/// Whether a tree has room for a block.
fn fits(block: u32, height: u32) -> bool {
    block.checked_shr(SHIFT * (height + 1)).unwrap_or(0) == 0
}

impl PartialEq for Others {
    fn eq(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.clone(), other.clone());
        match (a.is_empty(), b.is_empty()) {
            (false, false) => {
                a.grow(b.height);
                b.grow(a.height);
                a.root.zip(b.root).is_some_and(|(a, b)| same(&a, &b))
            }
            (a, b) => a == b,
        }
    }
}

impl Others {
    /// Whether nothing is known.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// What is known of a block.
    pub fn get(&self, block: u32) -> Option<&Times> {
        if !fits(block, self.height) {
            return None;
        }
        let mut node = self.root.as_ref()?;
        for height in (1..=self.height).rev() {
            match &**node {
                Fork(children) => node = children[slot(block, height)].as_ref()?,
                Leaf(_) => return None,
            }
        }
        match &**node {
            Leaf(times) => times[slot(block, 0)].as_deref(),
            Fork(_) => None,
        }
    }

    /// Adds what is known of a block.
    pub fn add(&mut self, block: u32, times: Times) {
        let mut height = 0;
        while !fits(block, height) {
            height += 1;
        }
        let mut leaf: [Option<Arc<Times>>; FAN] = [const { None }; FAN];
        leaf[slot(block, 0)] = Some(Arc::new(times));
        let mut node = Arc::new(Leaf(leaf));
        for height in 1..=height {
            let mut children = [const { None }; FAN];
            children[slot(block, height)] = Some(node);
            node = Arc::new(Fork(children));
        }
        self.join(&Self { root: Some(node), height });
    }

    /// Adds all that another one knows.
    #[inline]
    pub fn join(&mut self, other: &Self) {
        match (&self.root, &other.root) {
            (_, None) => {}
            (None, Some(_)) => self.clone_from(other),
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {}
            _ => self.join_all(other.clone()),
        }
    }

    #[cold]
    fn join_all(&mut self, mut other: Self) {
        self.grow(other.height);
        other.grow(self.height);
        if let (Some(a), Some(b)) = (&self.root, &other.root) {
            self.root = Some(joined(a, b));
        }
    }

    /// Puts nodes above the root until there are so many levels.
    fn grow(&mut self, height: u32) {
        while self.height < height {
            let mut children = [const { None }; FAN];
            children[0] = self.root.take();
            self.root = Some(Arc::new(Fork(children)));
            self.height += 1;
        }
    }
}

/// Joins the children of two nodes; whether the result is all of the first, and all of the second.
fn join_children<T>(
    a: &[Option<Arc<T>>; FAN],
    b: &[Option<Arc<T>>; FAN],
    join: impl Fn(&Arc<T>, &Arc<T>) -> Arc<T>,
) -> ([Option<Arc<T>>; FAN], bool, bool) {
    let (mut is_a, mut is_b) = (true, true);
    let children = std::array::from_fn(|index| match (&a[index], &b[index]) {
        (None, None) => None,
        (Some(a), None) => {
            is_b = false;
            Some(a.clone())
        }
        (None, Some(b)) => {
            is_a = false;
            Some(b.clone())
        }
        (Some(a), Some(b)) => {
            let both = if Arc::ptr_eq(a, b) { a.clone() } else { join(a, b) };
            is_a &= Arc::ptr_eq(&both, a);
            is_b &= Arc::ptr_eq(&both, b);
            Some(both)
        }
    });
    (children, is_a, is_b)
}

/// A node that knows what two of one height know: one of them where that is enough.
fn joined(a: &Arc<Node>, b: &Arc<Node>) -> Arc<Node> {
    let (node, is_a, is_b) = match (&**a, &**b) {
        (Fork(x), Fork(y)) => {
            let (children, is_a, is_b) = join_children(x, y, joined);
            (Fork(children), is_a, is_b)
        }
        (Leaf(x), Leaf(y)) => {
            let (times, is_a, is_b) = join_children(x, y, |x, y| {
                let mut both = Times::clone(x);
                both.join(y);
                if both == **x {
                    x.clone()
                } else if both == **y {
                    y.clone()
                } else {
                    Arc::new(both)
                }
            });
            (Leaf(times), is_a, is_b)
        }
        _ => unreachable!("nodes of one height are of one kind"),
    };
    match (is_a, is_b) {
        (true, _) => a.clone(),
        (_, true) => b.clone(),
        _ => Arc::new(node),
    }
}

/// Whether two nodes of one height know the same.
fn same(a: &Arc<Node>, b: &Arc<Node>) -> bool {
    fn all<T>(
        a: &[Option<Arc<T>>; FAN],
        b: &[Option<Arc<T>>; FAN],
        same: impl Fn(&Arc<T>, &Arc<T>) -> bool,
    ) -> bool {
        a.iter().zip(b).all(|pair| match pair {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || same(a, b),
            (a, b) => a.is_none() && b.is_none(),
        })
    }
    Arc::ptr_eq(a, b)
        || match (&**a, &**b) {
            (Fork(x), Fork(y)) => all(x, y, same),
            (Leaf(x), Leaf(y)) => all(x, y, |x, y| x == y),
            _ => false,
        }
}
