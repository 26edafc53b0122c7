//! Tables of ConfigMap, Secret and ServiceAccount.

use super::duration::age;
use super::{AGE, Column, NAME, Table, name};
use crate::api::fields::{entries, list, text};

/// The table of ConfigMaps.
pub(super) const CONFIG_MAP: Table = Table {
    columns: &[NAME, Column("Data", "string", 0, "Number of entries."), AGE],
    cells: |object, now| {
        let count = entries(object, "data").count() + entries(object, "binaryData").count();
        vec![name(object), count.into(), age(object, now).into()]
    },
};

/// The table of Secrets.
pub(super) const SECRET: Table = Table {
    columns: &[
        NAME,
        Column("Type", "string", 0, "What the data is for."),
        Column("Data", "string", 0, "Number of entries."),
        AGE,
    ],
    cells: |object, now| {
        let count = entries(object, "data").count();
        vec![
            name(object),
            text(object, "type").into(),
            count.into(),
            age(object, now).into(),
        ]
    },
};

/// The table of ServiceAccounts.
pub(super) const SERVICE_ACCOUNT: Table = Table {
    columns: &[
        NAME,
        Column(
            "Secrets",
            "string",
            0,
            "Number of secrets that pods of the account may use.",
        ),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            list(object, "secrets").len().into(),
            age(object, now).into(),
        ]
    },
};
