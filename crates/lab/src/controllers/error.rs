//! Why a reconciliation did not finish. Each is retried.

use crate::client;

/// Why a reconciliation did not finish.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused or could not be reached.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// Of several writes, some failed.
    #[error("{failed} of {all} writes failed; the first: {first}")]
    Several {
        failed: usize,
        all: usize,
        #[source]
        first: client::Error,
    },
    /// Something else has to happen first.
    #[error("{0}")]
    NotYet(String),
}

impl Error {
    /// Expected to pass by itself: somebody else wrote first, or the server is restarting.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Error::Client(error) | Error::Several { first: error, .. } => match error {
                client::Error::Status { code, .. } => matches!(code, 404 | 409 | 429 | 503 | 504),
                client::Error::Connect { .. } | client::Error::Http(_) | client::Error::Body(_) => true,
                client::Error::Request(_) | client::Error::Decode(_) => false,
            },
            Error::NotYet(_) => true,
        }
    }

    /// One result of many writes that were made together.
    pub(crate) fn all<T>(results: Vec<Result<T, client::Error>>) -> Result<(), Error> {
        let all = results.len();
        let mut errors: Vec<client::Error> = results.into_iter().filter_map(Result::err).collect();
        match errors.len() {
            0 => Ok(()),
            failed => Err(Error::Several {
                failed,
                all,
                first: errors.swap_remove(0),
            }),
        }
    }
}
