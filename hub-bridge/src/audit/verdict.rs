//! What is to be thought of an epoch: a pure function of what was found.

use serde::Serialize;

use super::digests::Proof;

/// The word on an epoch. In this order: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every reading that the relay stored is a row, and is the same one.
    Complete,
    /// Some are missing, or cannot be spoken of, each with a reason.
    Explained,
    /// Rows are there, and the relay never gave an account of them.
    Unproved,
    /// Some are missing, and nobody says why.
    Unexplained,
    /// What the relay says, what the database noted and what is there cannot all be true.
    Contradicted,
}

impl Verdict {
    /// As in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Explained => "explained",
            Self::Unproved => "unproved",
            Self::Unexplained => "unexplained",
            Self::Contradicted => "contradicted",
        }
    }
}

/// What a verdict goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// What the digest says; `None` without an account.
    pub proof: Option<Proof>,
    /// Things that cannot all be true.
    pub contradictions: usize,
    /// Missing readings without a reason.
    pub unexplained: u64,
    /// Missing readings with one.
    pub explained: u64,
    /// The account cannot speak of all of them: what it does not speak of is not proved.
    pub unspoken: bool,
}

impl Evidence {
    /// The word on it.
    pub fn verdict(self) -> Verdict {
        let Self {
            proof,
            contradictions,
            unexplained,
            explained,
            unspoken,
        } = self;
        match (contradictions, proof) {
            (1.., _) | (_, Some(Proof::Differs)) => Verdict::Contradicted,
            (0, None) => Verdict::Unproved,
            (0, Some(_)) if unexplained > 0 => Verdict::Unexplained,
            (0, Some(_)) if explained > 0 || unspoken => Verdict::Explained,
            (0, Some(Proof::Equal)) => Verdict::Complete,
            // Nothing is missing, so there is nothing that could not be compared.
            (0, Some(Proof::Incomparable)) => Verdict::Contradicted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts() {
        let verdict = |proof, contradictions, unexplained, explained| {
            Evidence {
                proof,
                contradictions,
                unexplained,
                explained,
                unspoken: false,
            }
            .verdict()
        };
        let equal = Some(Proof::Equal);
        let incomparable = Some(Proof::Incomparable);
        assert_eq!(verdict(equal, 0, 0, 0), Verdict::Complete);
        assert_eq!(verdict(equal, 0, 0, 3), Verdict::Explained);
        assert_eq!(verdict(incomparable, 0, 0, 3), Verdict::Explained);
        assert_eq!(verdict(incomparable, 0, 1, 3), Verdict::Unexplained);
        assert_eq!(verdict(None, 0, 9, 0), Verdict::Unproved);
        assert_eq!(
            verdict(Some(Proof::Differs), 0, 0, 0),
            Verdict::Contradicted
        );
        assert_eq!(verdict(equal, 1, 0, 0), Verdict::Contradicted);
        assert_eq!(verdict(None, 1, 0, 0), Verdict::Contradicted);
        for (proof, expected) in [
            (equal, Verdict::Explained),
            (None, Verdict::Unproved),
            (Some(Proof::Differs), Verdict::Contradicted),
        ] {
            let evidence = Evidence {
                proof,
                contradictions: 0,
                unexplained: 0,
                explained: 0,
                unspoken: true,
            };
            assert_eq!(evidence.verdict(), expected);
        }
        assert!(Verdict::Complete < Verdict::Contradicted);
    }
}
