//! Work that blocks in the kernel, done where nobody else waits for the thread.
//!
//! To hand work to another thread and its result back takes two wake-ups, some 0.1 ms: as long as most of what the
//! kernel is asked for takes. So a request that consists of such work has one thread from its beginning to its end.

use std::cell::Cell;
use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

thread_local! {
    /// Whether this thread has one thing to do, and may block while it does it.
    static OWN: Cell<bool> = const { Cell::new(false) };
}

/// Does all of this on a thread of its own, what it asks [`blocking`] for included, and begins at once: nobody has to
/// wait for it. Needs a tokio runtime.
pub fn on_own_thread<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let runtime = Handle::current();
    let body = move || {
        OWN.set(true);
        // The thread goes back to others, also after a panic.
        let _back = Back;
        runtime.block_on(work)
    };
    spawn_blocking(body)
}

struct Back;

impl Drop for Back {
    fn drop(&mut self) {
        OWN.set(false);
    }
}

/// Does what blocks: here, where the thread has nothing else to do, otherwise on another.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match OWN.get() {
        true => Ok(work()),
        false => spawn_blocking(work).await,
    }
}

#[cfg(test)]
mod tests {
    use std::thread::current;

    use super::*;

    #[tokio::test]
    async fn work_on_its_own_thread_stays_there() {
        let here = current().id();
        let inside = || async { (current().id(), blocking(|| current().id()).await.unwrap()) };
        let (first, second) = on_own_thread(inside()).await.unwrap();
        assert_eq!(first, second);
        assert_ne!(first, here);
        let (first, second) = inside().await;
        assert_eq!(first, here);
        assert_ne!(second, here);
    }
}
