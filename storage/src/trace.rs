//! The trace that a piece of work belongs to, wherever it runs: opaque text here, which goes along with the events that
//! the work leads to.

use std::sync::Arc;

tokio::task_local! {
    static CURRENT: Arc<str>;
}

/// The trace of the work that runs, if it has one.
pub fn current() -> Option<Arc<str>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Does some work that belongs to a trace.
pub async fn within<F: Future>(trace: Arc<str>, work: F) -> F::Output {
    CURRENT.scope(trace, work).await
}

/// The same work, to be done by another task: the trace of this one goes along.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let trace = current();
    async move {
        match trace {
            Some(trace) => Box::pin(within(trace, work)).await,
            None => work.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trace_goes_into_another_task_where_it_is_carried_there() {
        assert_eq!(current(), None);
        let (left, carried) = within("a".into(), async {
            let left = tokio::spawn(async { current() });
            let taken = tokio::spawn(carried(async { current() }));
            (left.await.unwrap(), taken.await.unwrap())
        })
        .await;
        assert_eq!((left, carried.as_deref()), (None, Some("a")));
        assert_eq!(carried_here().await, None);
    }

    async fn carried_here() -> Option<Arc<str>> {
        tokio::spawn(carried(async { current() })).await.unwrap()
    }
}
