//! Reachability: what a large number of runs must have seen at least once, or they prove less than they seem to.

/// Declares the marks of a level with their texts, and their counts. Those named behind `exempt` are gaps and not goals: they
/// need not be seen.
macro_rules! marks {
    (exempt: [$($gap:ident),*]; $($name:ident: $text:literal,)+) => {
        /// Something that is to happen sometimes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mark {
            $(#[doc = $text] $name,)+
        }

        impl Mark {
            /// Every mark.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What it stands for.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }

        /// How often each was seen.
        #[derive(Debug, Clone)]
        pub struct Marks {
            counts: [u64; Mark::ALL.len()],
        }

        impl Default for Marks {
            fn default() -> Self {
                Self { counts: [0; Mark::ALL.len()] }
            }
        }

        impl Marks {
            pub(crate) fn hit(&mut self, mark: Mark) {
                self.counts[mark as usize] += 1;
            }

            /// How often it was seen.
            #[must_use]
            pub fn count(&self, mark: Mark) -> u64 {
                self.counts[mark as usize]
            }

            /// Adds what another run saw.
            pub fn add(&mut self, other: &Self) {
                for (count, more) in self.counts.iter_mut().zip(other.counts) {
                    *count += more;
                }
            }

            /// Those never seen. What is a gap and not a goal does not count.
            #[must_use]
            pub fn missed(&self) -> Vec<Mark> {
                let is_missed = |mark: &Mark| ![$(Mark::$gap),*].contains(mark) && self.count(*mark) == 0;
                Mark::ALL.iter().copied().filter(is_missed).collect()
            }
        }
    };
}

pub(crate) use marks;
