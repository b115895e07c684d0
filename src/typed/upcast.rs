//! From old versions of a schema to the newest, a step at a time.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{BoxError, TypedError};
use super::{Codec, Event};

type Step<C> = Box<dyn Fn(&C, &[u8]) -> Result<Vec<u8>, BoxError> + Send + Sync>;

/// Steps from one version of an event's schema to the next: 1 to 2, 2 to 3, and so on. An event of version
/// 1 takes them all, one of the newest version none. Steps are never changed, only added; those from versions
/// that no event has any more can go.
///
/// ```
/// # #[cfg(feature = "json")] {
/// use keywal::typed::{Json, Upcasters};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// struct MovedV1 { address: String }
/// #[derive(Serialize, Deserialize)]
/// struct MovedV2 { address: String, country: Option<String> }
///
/// let upcasters: Upcasters<Json> = Upcasters::new().step("moved", 1, |old: MovedV1| {
///     Ok(MovedV2 { address: old.address, country: None })
/// });
/// # }
/// ```
pub struct Upcasters<C> {
    steps: BTreeMap<(String, u32), Step<C>>,
    /// A step that was given twice.
    twice: Option<(String, u32)>,
}

impl<C: Codec> Upcasters<C> {
    /// None yet.
    pub fn new() -> Self {
        Self { steps: BTreeMap::new(), twice: None }
    }

    /// Adds a step from version `from` of a type to the next one. `Old` reads what the codec wrote for that
    /// version, and `New` is written as the next one has it. Either can be a value of the codec's own kind,
    /// such as `serde_json::Value`.
    #[must_use]
    pub fn step<Old: DeserializeOwned, New: Serialize>(
        mut self,
        event_type: &str,
        from: u32,
        step: impl Fn(Old) -> Result<New, BoxError> + Send + Sync + 'static,
    ) -> Self {
        let place = (event_type.to_owned(), from);
        let step: Step<C> =
            Box::new(move |codec, bytes| codec.encode(&step(codec.decode(bytes)?)?));
        if self.steps.insert(place.clone(), step).is_some() {
            self.twice = Some(place);
        }
        self
    }

    /// Refuses steps that lead nowhere.
    pub(super) fn check<E: Event>(&self) -> Result<(), TypedError> {
        let refuse = |text: String| Err(TypedError::Upcasters(text));
        if let Some((event_type, from)) = &self.twice {
            return refuse(format!("{event_type} has two steps from version {from}"));
        }
        for (event_type, from) in self.steps.keys() {
            let Some(newest) = newest::<E>(event_type) else {
                return refuse(format!("there is no event of type {event_type:?}"));
            };
            if *from >= newest {
                return refuse(format!(
                    "{event_type} has a step from version {from}, and its newest is {newest}"
                ));
            }
            let next = from.saturating_add(1);
            if next < newest && !self.steps.contains_key(&(event_type.clone(), next)) {
                return refuse(format!("{event_type} has no step from version {next}"));
            }
        }
        Ok(())
    }

    /// Takes an event's content from its version to the newest one.
    pub(super) fn upcast(
        &self,
        codec: &C,
        index: u64,
        event_type: &str,
        versions: std::ops::Range<u32>,
        content: &[u8],
    ) -> Result<Vec<u8>, TypedError> {
        let mut content = content.to_vec();
        let mut place = (event_type.to_owned(), versions.start);
        for schema_version in versions {
            place.1 = schema_version;
            let event_type = || event_type.to_owned();
            let step = self.steps.get(&place).ok_or_else(|| TypedError::NoUpcaster {
                index,
                event_type: event_type(),
                schema_version,
            })?;
            content = step(codec, &content).map_err(|source| TypedError::Upcast {
                index,
                event_type: event_type(),
                schema_version,
                source,
            })?;
        }
        Ok(content)
    }
}

/// The newest version of a type's schema; `None` if there is no such type.
pub(super) fn newest<E: Event>(event_type: &str) -> Option<u32> {
    E::TYPES.iter().find(|(name, _)| *name == event_type).map(|(_, newest)| *newest)
}

impl<C: Codec> Default for Upcasters<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> fmt::Debug for Upcasters<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.keys()).finish()
    }
}
