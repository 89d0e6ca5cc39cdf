//! Random input from a seed: kept inputs, changed a little.

/// `SplitMix64`: small, and the same on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// One of `kept` after some changes, or bytes from nowhere.
    pub(crate) fn input(&mut self, kept: &[Vec<u8>]) -> Vec<u8> {
        let Some(base) = kept.get(self.below(kept.len() + 1)) else {
            return (0..self.below(200)).map(|_| self.byte()).collect();
        };
        let mut bytes = base.clone();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, kept);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, kept: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let to = at + self.below(bytes.len() - at + 1).min(16);
        match self.below(6) {
            0 => bytes.insert(at, self.byte()),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let again: Vec<u8> = bytes.iter().copied().skip(at).take(to - at).collect();
                bytes.splice(at..at, again);
            }
            3 => {
                let other = kept.get(self.below(kept.len())).map_or(&[][..], |o| o);
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(other.iter().skip(from));
            }
            _ => {
                let edge = [0, 1, 0x7F, 0x80, 0xFF, self.byte()];
                let value = edge.get(self.below(edge.len())).copied();
                if let (Some(byte), Some(value)) = (bytes.get_mut(at), value) {
                    *byte = value;
                }
            }
        }
    }
}
