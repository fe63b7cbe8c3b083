//! A signal that answers may have changed.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use futures_util::future::select_all;
use tokio::sync::watch;

/// 1 second after which an answer is rendered anew although no source published anything: a stuck probe publishes
/// nothing, and still its outcome changes with time.
pub const ANSWER_AGE: Duration = Duration::from_secs(1);

/// What a source publishes, without its type.
trait Published: Send + Sync {
    /// Whether something was published since the last call.
    fn take_change(&mut self) -> bool;
    /// Waits for the next publication; without end where the publisher is gone.
    fn changed(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    fn boxed_clone(&self) -> Box<dyn Published>;
}

impl<T: Send + Sync + 'static> Published for watch::Receiver<T> {
    fn take_change(&mut self) -> bool {
        let has_changed = self.has_changed().unwrap_or(false);
        if has_changed {
            self.mark_unchanged();
        }
        has_changed
    }

    fn changed(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            if watch::Receiver::changed(self).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    fn boxed_clone(&self) -> Box<dyn Published> {
        Box::new(self.clone())
    }
}

/// Tells when answers may have changed. Each reader has its own.
#[derive(Default)]
pub struct Changes(Vec<Box<dyn Published>>);

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("sources", &self.0.len()).finish()
    }
}

impl Clone for Changes {
    fn clone(&self) -> Self {
        Self(self.0.iter().map(|source| source.boxed_clone()).collect())
    }
}

impl Changes {
    /// The same, with one more source.
    #[must_use]
    pub(super) fn and<T: Send + Sync + 'static>(mut self, source: watch::Receiver<T>) -> Self {
        self.0.push(Box::new(source));
        self
    }

    /// Whether any source has published something since the last call. One atomic load per source where none has.
    pub fn any(&mut self) -> bool {
        // Not `any`, which would leave the later sources marked.
        self.0.iter_mut().fold(false, |found, source| source.take_change() | found)
    }

    /// Waits for the next publication, but no longer than [`ANSWER_AGE`].
    pub async fn wait(&mut self) {
        if self.0.is_empty() {
            return tokio::time::sleep(ANSWER_AGE).await;
        }
        let publication = select_all(self.0.iter_mut().map(|source| source.changed()));
        let _nothing_published = tokio::time::timeout(ANSWER_AGE, publication).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_publication_is_told_once_to_each_reader() {
        let (numbers, number) = watch::channel(0);
        let (texts, text) = watch::channel(String::new());
        let (gone, never) = watch::channel(());
        drop(gone);
        let mut changes = Changes::default().and(number).and(text).and(never);
        let mut other = changes.clone();
        assert!(!changes.any());
        numbers.send_replace(1);
        texts.send_replace("x".to_owned());
        assert!(changes.any());
        assert!(!changes.any());
        assert!(other.any());
        texts.send_replace("y".to_owned());
        changes.wait().await;
        assert!(!changes.any(), "waiting takes the publication");
        tokio::join!(changes.wait(), async {
            numbers.send_replace(2);
        });
        assert!(!changes.any());
    }
}
