//! Damage that was met since the directory was opened.

use std::sync::PoisonError;

use crate::error::{Result, WalError};
use crate::observe;
use crate::primitives::Mutex;
use crate::report::{Finding, MAX_LISTED};

/// Each damaged span once, as far as the list goes. Touched only where something is damaged.
#[derive(Debug, Default)]
pub(crate) struct Damage(Mutex<Vec<Finding>>);

impl Damage {
    /// Notes the damage that a call is about to report.
    #[inline]
    pub(crate) fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.note(error);
        }
        result
    }

    /// Notes an error that a call is about to return.
    #[cold]
    pub(crate) fn told(&self, error: WalError) -> WalError {
        self.note(&error);
        error
    }

    /// Notes the error if it is damage.
    #[cold]
    pub(crate) fn note(&self, error: &WalError) {
        let WalError::Corrupted { path, offset, bytes, reason } = error else { return };
        let (path, what) = (path.clone(), (*reason).to_owned());
        self.found(&[Finding { path, offset: *offset, bytes: *bytes, what }]);
    }

    /// Notes what was found in a key's files when it was first used.
    pub(crate) fn found(&self, findings: &[Finding]) {
        for finding in findings.iter().filter(|finding| self.is_new(finding)) {
            observe::damaged(finding);
        }
    }

    fn is_new(&self, finding: &Finding) -> bool {
        let known =
            |other: &Finding| (&other.path, other.offset) == (&finding.path, finding.offset);
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = !met.iter().any(known) && met.len() < MAX_LISTED;
        if new {
            met.push(finding.clone());
        }
        new
    }

    pub(crate) fn met(&self) -> Vec<Finding> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
