//! The domain of the example: users and orders, their events and their rules. It knows of no log.

use std::error::Error;
use std::fmt;

use keywal::typed::{Aggregate, Event};
use serde::{Deserialize, Serialize};

type Result<T, E = Refused> = std::result::Result<T, E>;

/// A rule of the business said no.
#[derive(Debug)]
pub struct Refused(pub &'static str);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {}", self.0)
    }
}

impl Error for Refused {}

fn require(holds: bool, rule: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(Refused(rule)) }
}

#[derive(Serialize, Deserialize)]
pub enum UserEvent {
    Registered { name: String, email: String },
    EmailChanged { email: String },
    PointsEarned { points: u64 },
}

impl Event for UserEvent {
    const TYPES: &'static [(&'static str, u32)] =
        &[("registered", 1), ("email_changed", 1), ("points_earned", 1)];

    fn event_type(&self) -> &'static str {
        match self {
            Self::Registered { .. } => "registered",
            Self::EmailChanged { .. } => "email_changed",
            Self::PointsEarned { .. } => "points_earned",
        }
    }
}

/// Its commands are methods that look at it and answer with an event, or refuse.
#[derive(Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct User {
    pub name: Option<String>,
    pub email: String,
    pub points: u64,
}

impl Aggregate for User {
    type Event = UserEvent;
    const NAME: &'static str = "user";

    fn apply(&mut self, event: UserEvent) {
        match event {
            UserEvent::Registered { name, email } => (self.name, self.email) = (Some(name), email),
            UserEvent::EmailChanged { email } => self.email = email,
            UserEvent::PointsEarned { points } => self.points += points,
        }
    }
}

impl User {
    pub fn register(&self, name: &str, email: &str) -> Result<UserEvent> {
        require(self.name.is_none(), "the user is registered already")?;
        Ok(UserEvent::Registered { name: name.to_owned(), email: email.to_owned() })
    }

    pub fn change_email(&self, email: &str) -> Result<UserEvent> {
        require(self.name.is_some(), "there is no such user")?;
        Ok(UserEvent::EmailChanged { email: email.to_owned() })
    }

    pub fn earn_points(&self, points: u64) -> Result<UserEvent> {
        require(self.name.is_some(), "there is no such user")?;
        Ok(UserEvent::PointsEarned { points })
    }
}

#[derive(Serialize, Deserialize)]
pub enum OrderEvent {
    Placed { user: String },
    LineAdded { item: String, cents: u64 },
    Confirmed { user: String, cents: u64 },
}

impl Event for OrderEvent {
    const TYPES: &'static [(&'static str, u32)] =
        &[("placed", 1), ("line_added", 1), ("confirmed", 1)];

    fn event_type(&self) -> &'static str {
        match self {
            Self::Placed { .. } => "placed",
            Self::LineAdded { .. } => "line_added",
            Self::Confirmed { .. } => "confirmed",
        }
    }
}

#[derive(Serialize, Deserialize, Default)]
pub struct Order {
    user: Option<String>,
    pub lines: Vec<(String, u64)>,
    confirmed: bool,
}

impl Aggregate for Order {
    type Event = OrderEvent;
    const NAME: &'static str = "order";

    fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::Placed { user } => self.user = Some(user),
            OrderEvent::LineAdded { item, cents } => self.lines.push((item, cents)),
            OrderEvent::Confirmed { .. } => self.confirmed = true,
        }
    }
}

impl Order {
    pub const MAX_LINES: usize = 10;

    pub fn place(&self, user: &str) -> Result<OrderEvent> {
        require(self.user.is_none(), "the order is placed already")?;
        Ok(OrderEvent::Placed { user: user.to_owned() })
    }

    pub fn add_line(&self, item: &str, cents: u64) -> Result<OrderEvent> {
        require(self.user.is_some() && !self.confirmed, "the order is not open")?;
        require(self.lines.len() < Self::MAX_LINES, "the order is full")?;
        Ok(OrderEvent::LineAdded { item: item.to_owned(), cents })
    }

    pub fn confirm(&self) -> Result<OrderEvent> {
        require(!self.confirmed && !self.lines.is_empty(), "nothing to confirm")?;
        let user = self.user.clone().ok_or(Refused("there is no such order"))?;
        Ok(OrderEvent::Confirmed { user, cents: self.lines.iter().map(|line| line.1).sum() })
    }
}
