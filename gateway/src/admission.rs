//! Who gets to use what there is only so much of.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::Refusal;

/// Permits of this node.
#[derive(Debug)]
pub struct Admission {
    uploads: Arc<Semaphore>,
}

impl Admission {
    /// As many upload bodies at once as `max_uploads`.
    pub fn new(max_uploads: usize) -> Self {
        Self { uploads: Arc::new(Semaphore::new(max_uploads)) }
    }

    /// The right to send one upload body; given back when dropped.
    ///
    /// # Errors
    /// 503 with `Retry-After` when as many as allowed are in progress.
    pub fn upload(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.uploads).try_acquire_owned().map_err(|_full| {
            Refusal::busy(
                "Too many uploads are in progress on this node (uploads.max_in_progress).",
                Duration::from_secs(5),
            )
            .closing()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_comes_back_when_its_upload_ends() {
        let admission = Admission::new(1);
        let held = admission.upload().unwrap();
        assert_eq!(admission.upload().unwrap_err().status.as_u16(), 503);
        drop(held);
        assert!(admission.upload().is_ok());
    }
}
