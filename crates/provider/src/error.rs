//! Why a provider gives nothing.

use std::time::Duration;

/// A failure to get an answer, or a use of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The address of the provider cannot be used.
    #[error("{url:?} is no address of a provider: {why}; correct spec.provider.http.url")]
    Url {
        /// What was given.
        url: String,
        /// Why not.
        why: String,
    },
    /// Nobody answers.
    #[error(
        "the provider at {url} cannot be reached: {why}; check that it runs and that the controller may talk to it"
    )]
    Unreachable {
        /// Who was asked.
        url: String,
        /// Why not.
        why: String,
    },
    /// No answer in time; whether it has been done is not known.
    #[error("the provider at {url} has not answered within {seconds} s; it is asked again")]
    Slow {
        /// Who was asked.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// It is asked too often.
    #[error("the provider at {url} limits how often it is asked (429); it is asked again in {seconds} s")]
    Limited {
        /// Who was asked.
        url: String,
        /// When it may be asked again.
        seconds: u64,
    },
    /// It says no.
    #[error("the provider at {url} refused ({status}): {message}")]
    Refused {
        /// Who was asked.
        url: String,
        /// Its HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// It says what cannot be understood.
    #[error("the provider at {url} answered what cannot be understood: {why}; correct the provider")]
    Garbled {
        /// Who was asked.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ProviderError {
    /// How long it wants to be left alone.
    pub fn pause(&self) -> Option<Duration> {
        match self {
            Self::Limited { seconds, .. } => Some(Duration::from_secs(*seconds)),
            _ => None,
        }
    }
}
