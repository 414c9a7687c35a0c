//! Load averages (`man 5 proc_loadavg`), without anybody counting every five seconds: between two readings the mean
//! number of running tasks is the processor time they used, divided by the time that passed.

use parking_lot::Mutex;

use crate::time::{Instant, SECOND_NS};

/// See the module's text.
#[derive(Default)]
pub(super) struct LoadAverage {
    last: Mutex<Option<Sample>>,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    used_ns: u64,
    averages: [f64; 3],
}

/// Time constants: one, five and fifteen minutes.
const SECONDS: [f64; 3] = [60.0, 300.0, 900.0];

impl LoadAverage {
    /// The averages, given all processor time used since `began`.
    pub(super) fn update(&self, began: Instant, now: Instant, used_ns: u64) -> [f64; 3] {
        let mut last = self.last.lock();
        let before = last.unwrap_or(Sample { at: began, used_ns: 0, averages: [0.0; 3] });
        let elapsed_ns = now.0.saturating_sub(before.at.0);
        if elapsed_ns < SECOND_NS {
            return before.averages;
        }
        let running = used_ns.saturating_sub(before.used_ns) as f64 / elapsed_ns as f64;
        let mut averages = before.averages;
        for (average, seconds) in averages.iter_mut().zip(SECONDS) {
            let kept = (-(elapsed_ns as f64 / SECOND_NS as f64) / seconds).exp();
            *average = *average * kept + running * (1.0 - kept);
        }
        *last = Some(Sample { at: now, used_ns, averages });
        averages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_busy_tasks_for_an_hour_are_a_load_of_two_that_fades() {
        let load = LoadAverage::default();
        let hour = 3600 * SECOND_NS;
        let busy = load.update(Instant(0), Instant(hour), 2 * hour);
        assert!((busy[0] - 2.0).abs() < 0.01, "{busy:?}");
        let later = load.update(Instant(0), Instant(hour + 60 * SECOND_NS), 2 * hour);
        assert!(later[0] < 0.8 && later[2] > 1.8, "{later:?}");
    }
}
