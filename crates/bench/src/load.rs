//! Drives a workload: closed loop or open loop, with the clock in one place.
//!
//! Closed loop: each of N callers has one operation under way at any time. The latency is the operation's own, and the
//! throughput is what the server can do with N callers.
//!
//! Open loop: operations start at a fixed rate, whether or not earlier ones have come back. The latency runs from the
//! *intended* start: an operation that had to wait for a free caller has been waiting all the same. A
//! closed loop would leave that wait out ("coordinated omission", Tene 2013).
//!
//! ```text
//!  time ──►  warm-up          | measured                          | drain
//!            not recorded     | operations that begin here        | their answers are awaited, no new ones begin
//!            server counters ─┘ read ..... and read again ────────┘
//! ```

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::{Mutex, mpsc};

use crate::process::{Processes, Sample};

/// The longest latency that the histogram tells apart, in nanoseconds.
const LATENCY_MAX: u64 = 120_000_000_000;

/// How long answers may take that are under way at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the progress bar is drawn.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// When and how much.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Callers: operations under way at once.
    pub(crate) clients: usize,
    /// Not recorded, at the start.
    pub(crate) warmup: Duration,
    /// Recorded, after that.
    pub(crate) duration: Duration,
    /// Operations a second; closed loop when absent.
    pub(crate) rate: Option<f64>,
    /// Ends the run after so many operations, if that is earlier. There is no warm-up then.
    pub(crate) total: Option<u64>,
    /// Whether to draw a progress bar on standard error.
    pub(crate) has_progress: bool,
}

/// What was measured.
pub(crate) struct Measured {
    /// Latencies in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Operations that began and ended inside the measured time.
    pub(crate) operations: u64,
    /// Operations that failed, and what the first of them said.
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// The measured time.
    pub(crate) elapsed: Duration,
    /// The server's counters at both ends.
    pub(crate) server: Option<(Sample, Sample)>,
}

/// Where operations report to; shared by all callers, on one thread.
pub(crate) struct Meter {
    start: Instant,
    measured_from: Instant,
    /// Far away until the run decides that it is over.
    measured_until: Cell<Instant>,
    latencies: RefCell<Histogram<u64>>,
    operations: Cell<u64>,
    done: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
}

impl Meter {
    /// Records that something that began at `began` has ended now. Workloads that count something else than calls
    /// (delivered events) call this themselves.
    pub(crate) fn record(&self, began: Instant) {
        let now = Instant::now();
        self.done.set(self.done.get() + 1);
        if began < self.measured_from || began > self.measured_until.get() {
            return;
        }
        let nanos = u64::try_from((now - began).as_nanos()).unwrap_or(LATENCY_MAX).min(LATENCY_MAX);
        // Saturating: never fails.
        self.latencies.borrow_mut().saturating_record(nanos);
        if now <= self.measured_until.get() {
            self.operations.set(self.operations.get() + 1);
        }
    }

    fn fail(&self, error: &anyhow::Error) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
    }
}

/// Whether the engine records an operation, or the operation itself does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recording {
    /// One latency for each call of the operation.
    PerCall,
    /// The operation calls [`Meter::record`].
    ByOperation,
}

/// Runs `operation(caller, meter)` again and again as the plan says.
pub(crate) async fn drive<F, Fut>(
    plan: &Plan,
    server: Option<&Processes>,
    recording: Recording,
    operation: F,
) -> Result<Measured>
where
    F: Fn(usize, Rc<Meter>) -> Fut + 'static,
    Fut: Future<Output = Result<()>> + 'static,
{
    let warmup = if plan.total.is_some() { Duration::ZERO } else { plan.warmup };
    let start = Instant::now();
    let meter = Rc::new(Meter {
        start,
        measured_from: start + warmup,
        measured_until: Cell::new(start + warmup + plan.duration),
        latencies: RefCell::new(
            Histogram::new_with_bounds(1, LATENCY_MAX, 3).context("make a histogram")?,
        ),
        operations: Cell::new(0),
        done: Cell::new(0),
        errors: Cell::new(0),
        first_error: RefCell::new(None),
    });
    let operation = Rc::new(operation);
    let tickets = Rc::new(Tickets::new(plan, &meter));
    let callers: Vec<_> = (0..plan.clients)
        .map(|caller| {
            let (meter, operation, tickets) =
                (Rc::clone(&meter), Rc::clone(&operation), Rc::clone(&tickets));
            tokio::task::spawn_local(async move {
                while let Some(intended) = tickets.next().await {
                    match operation(caller, Rc::clone(&meter)).await {
                        Ok(()) if recording == Recording::PerCall => meter.record(intended),
                        Ok(()) => {}
                        Err(error) => {
                            meter.fail(&error);
                            // A server that refuses at once must not turn the caller into a busy loop.
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    }
                }
            })
        })
        .collect();
    let progress = plan
        .has_progress
        .then(|| tokio::task::spawn_local(show_progress(plan.clone(), Rc::clone(&meter))));
    tokio::time::sleep_until(meter.measured_from.into()).await;
    let before = server.map(Processes::sample).transpose()?;
    let mut drained = Box::pin(async move {
        for caller in callers {
            // A caller that panicked took its message to standard error already.
            let _ = caller.await;
        }
    });
    // The end of the measured time, or of the operations, whichever is first.
    let is_drained = tokio::select! {
        () = tokio::time::sleep_until(meter.measured_until.get().into()) => false,
        () = &mut drained => {
            meter.measured_until.set(Instant::now());
            true
        }
    };
    let elapsed = meter.measured_until.get() - meter.measured_from;
    let after = server.map(Processes::sample).transpose()?;
    let operations = meter.operations.get();
    // Answers that are under way still count as latencies: leaving out the slowest would flatter.
    if !is_drained {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    }
    if let Some(progress) = progress {
        progress.abort();
    }
    let latencies = meter.latencies.borrow().clone();
    let first_error = meter.first_error.borrow().clone();
    Ok(Measured {
        latencies,
        operations,
        errors: meter.errors.get(),
        first_error,
        elapsed,
        server: before.zip(after),
    })
}

/// Hands out the moments at which operations are to begin.
enum Tickets {
    /// At once, until the end.
    Closed { left: Cell<u64>, meter: Rc<Meter> },
    /// As a pacing thread says.
    Open { due: Mutex<mpsc::UnboundedReceiver<Instant>> },
}

impl Tickets {
    fn new(plan: &Plan, meter: &Rc<Meter>) -> Self {
        let Some(rate) = plan.rate else {
            return Self::Closed {
                left: Cell::new(plan.total.unwrap_or(u64::MAX)),
                meter: Rc::clone(meter),
            };
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let (start, until) = (meter.start, meter.measured_until.get());
        let total = plan.total.unwrap_or(u64::MAX);
        // A thread, because tokio's timer is only good to a millisecond.
        std::thread::spawn(move || {
            for index in 0..total {
                // Rates and counts are far below 2^52.
                let due = start + Duration::from_secs_f64(index as f64 / rate);
                if due > until {
                    return;
                }
                if let Some(wait) = due.checked_duration_since(Instant::now()) {
                    std::thread::sleep(wait);
                }
                if sender.send(due).is_err() {
                    return;
                }
            }
        });
        Self::Open { due: Mutex::new(receiver) }
    }

    /// The intended beginning of the caller's next operation; `None` when it is over.
    async fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed { left, meter } => {
                let now = Instant::now();
                let count = left.get().checked_sub(1)?;
                left.set(count);
                (now < meter.measured_until.get()).then_some(now)
            }
            Self::Open { due } => due.lock().await.recv().await,
        }
    }
}

async fn show_progress(plan: Plan, meter: Rc<Meter>) {
    let total = plan.total.unwrap_or_else(|| {
        u64::try_from((plan.warmup + plan.duration).as_millis()).unwrap_or(u64::MAX)
    });
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template("{bar:40} {percent:>3}% {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut last = (Instant::now(), 0);
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let done = meter.done.get();
        let elapsed = meter.start.elapsed();
        let position = if plan.total.is_some() {
            done
        } else {
            u64::try_from(elapsed.as_millis()).unwrap_or(0)
        };
        bar.set_position(position);
        // Counts far below 2^52.
        let rate = (done - last.1) as f64 / last.0.elapsed().as_secs_f64();
        let phase = if Instant::now() < meter.measured_from { "warming up, " } else { "" };
        bar.set_message(format!("{phase}{rate:.0}/s, {} errors", meter.errors.get()));
        last = (Instant::now(), done);
    }
}
