//! A block: its warps take turns on one CPU thread.

use super::{
    Fault, FaultKind,
    exec::{Env, Launch, Pause},
    op::Op,
    spaces::{Blocks, Spaces, Trouble},
    warp::{State, Warp},
};

/// Instructions that a warp runs before others have a turn.
const SLICE: u32 = 2048;
/// The same in a cooperative launch, where the seed draws a number below this.
const SHORT_SLICE: u32 = 24;

/// A block that runs, or can be given another block to run.
pub struct Block<'a> {
    env: Env<'a>,
    warps: Vec<Warp>,
    /// The order in which its warps run.
    order: Vec<u32>,
    /// State of the generator that permutes the order.
    random: u64,
}

/// Whether a block is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is.
    Done,
    /// It is not.
    Running,
}

impl<'a> Block<'a> {
    /// Room for the blocks of a launch.
    pub fn new(launch: &'a Launch<'a>, spaces: Spaces<'a>) -> Self {
        let threads: u32 = launch.config.block.iter().product();
        let warps = (0..threads.div_ceil(32)).map(|_| Warp::default()).collect::<Vec<_>>();
        let order = (0..warps.len() as u32).collect();
        Self { env: Env::new(launch, spaces), warps, order, random: 0 }
    }

    /// Makes it ready to run block `linear` of the grid, which starts as number `number`.
    pub fn start(&mut self, linear: u64, number: u64) {
        let launch = self.env.launch;
        let threads: u32 = launch.config.block.iter().product();
        self.env.block = Blocks { grid: launch.config.grid, step: 1 }.place(linear);
        self.env.linear = linear;
        self.env.steps = 0;
        self.env.arrivals = false;
        self.env.spaces.reset(number);
        self.env.spaces.counters.blocks += 1;
        self.env.spaces.counters.warps += self.warps.len() as u64;
        self.env.barriers.iter_mut().for_each(|b| b.reset(self.warps.len()));
        for (index, warp) in self.warps.iter_mut().enumerate() {
            warp.start(self.env.program, index as u32, threads);
        }
        // Whatever this thread ran before: the order is the block's own.
        self.order.iter_mut().zip(0..).for_each(|(index, warp)| *index = warp);
        self.random = launch.device.options.seed ^ linear.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Blocks whose states differ by the step of the generator would draw the same numbers, one after the other.
        self.random = self.draw(u64::MAX);
    }

    /// Gives each warp a turn, in an order that the seed decides anew every time.
    ///
    /// In a cooperative launch, whose blocks meet in global memory, turns are short and some warps and whole blocks miss theirs, so
    /// that none can lean on the pace of another.
    ///
    /// # Errors
    /// The first fault of a thread.
    pub fn turn(&mut self) -> Result<Progress, Box<Fault>> {
        let uneven = self.env.launch.config.cooperative;
        if uneven && self.draw(2) == 0 {
            return Ok(Progress::Running);
        }
        self.shuffle();
        let (mut done, mut ran) = (0, false);
        for position in 0..self.order.len() {
            let index = self.order[position] as usize;
            let slice = if uneven { self.draw(u64::from(SHORT_SLICE)) as u32 } else { SLICE };
            let warp = &mut self.warps[index];
            let ready = warp.splits.iter().any(|s| s.state != State::Barrier);
            if !ready {
                done += usize::from(warp.splits.is_empty());
                continue;
            }
            if slice == 0 {
                ran = true;
                continue;
            }
            let before = self.env.steps;
            match self.env.run(warp, slice) {
                Ok(Pause::Done) => done += 1,
                Ok(Pause::Blocked | Pause::Yielded) => {}
                Err(trouble) => return Err(self.fault(index, self.warps[index].pc, *trouble)),
            }
            ran |= self.env.steps > before;
            if std::mem::take(&mut self.env.arrivals) {
                match self.env.open_barriers(&mut self.warps) {
                    Ok(opened) => ran |= opened,
                    Err(message) => {
                        let warp = &self.warps[index];
                        let waiting = warp.splits.iter().find(|s| s.state == State::Barrier);
                        let (pc, lanes) = waiting.map_or((warp.pc, warp.live), |s| (s.pc, s.mask));
                        let lane = lanes.trailing_zeros().min(31);
                        return Err(self.fault(
                            index,
                            pc,
                            Trouble { kind: FaultKind::Barrier, lane, message },
                        ));
                    }
                }
            }
        }
        if done == self.warps.len() {
            return Ok(Progress::Done);
        }
        // Who has left may be what others wait for, where the checks allow that.
        if !ran && !self.env.open_barriers(&mut self.warps).unwrap_or(false) {
            return Err(self.stuck());
        }
        Ok(Progress::Running)
    }

    /// Adds up what it did.
    pub fn finish(&mut self) -> (super::Counters, Vec<u8>) {
        (self.env.count_instructions(), std::mem::take(&mut self.env.output))
    }

    /// A number below `end`, by splitmix64.
    fn draw(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % end
    }

    /// Permutes the order of the warps (Fisher and Yates).
    fn shuffle(&mut self) {
        for last in (1..self.order.len()).rev() {
            let other = self.draw(last as u64 + 1) as usize;
            self.order.swap(last, other);
        }
    }

    /// Nobody can go on.
    #[cold]
    fn stuck(&self) -> Box<Fault> {
        let waiting =
            self.warps.iter().find_map(|w| w.splits.iter().find(|s| s.state == State::Warp).map(|s| (w, s)));
        let any = || self.warps.iter().find_map(|w| w.splits.first().map(|s| (w, s)));
        let Some((warp, split)) = waiting.or_else(any) else {
            unreachable!("a block in which no lane is left is done");
        };
        let at_barrier =
            self.warps.iter().flat_map(|w| &w.splits).any(|s| {
                matches!(self.env.program.code[s.pc as usize].op, Op::Barrier { .. } | Op::WarpSync)
            });
        let kind = if at_barrier { FaultKind::Barrier } else { FaultKind::Deadlock };
        let mut message = "no thread of the block can go on".to_owned();
        const SHOWN: usize = 8;
        for warp in self.warps.iter().take(SHOWN) {
            message += &format!("\n  warp {}:{}", warp.index, warp.describe(self.env.program));
        }
        if self.warps.len() > SHOWN {
            message += &format!("\n  and {} more warps", self.warps.len() - SHOWN);
        }
        let trouble = Trouble { kind, lane: split.mask.trailing_zeros(), message };
        self.fault(warp.index as usize, split.pc, trouble)
    }

    /// A fault with its surroundings.
    #[cold]
    fn fault(&self, warp: usize, pc: u32, trouble: Trouble) -> Box<Fault> {
        let program = self.env.program;
        let place = program.places[pc as usize];
        let [x, y, _] = self.env.launch.config.block;
        let thread = warp as u32 * 32 + trouble.lane;
        Box::new(Fault {
            kind: trouble.kind,
            message: trouble.message,
            kernel: self.env.launch.kernel.name.clone(),
            block: self.env.block,
            thread: [thread % x, thread / x % y, thread / (x * y)],
            line: place.line,
            text: program.text.get(place.line.saturating_sub(1) as usize).cloned().unwrap_or_default(),
            source: program.files.get(&place.file).map(|f| (f.clone(), place.source_line)),
        })
    }
}
