//! redb 4, a store of sorted keys and values: one table, whose keys are a key and an index. Each append is
//! a transaction: with `Durability::None` it is gone after a kill unless a durable one follows (`buf`),
//! with `Immediate` it is behind an `fdatasync`. At the sizes measured here its reads come from its cache.

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

const ENTRIES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("entries");

pub struct Redb {
    database: Database,
    keys: usize,
}

impl Redb {
    /// Returns the index of the first.
    fn commit(&self, key: usize, contents: &[Content], durability: Durability) -> Result<u64> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(durability)?;
        let mut table = transaction.open_table(ENTRIES)?;
        let first = append_to(&mut table, key, contents)?;
        drop(table);
        transaction.commit()?;
        Ok(first)
    }
}

/// The table says which index is next, so that threads cannot be given the same.
fn append_to(
    table: &mut redb::Table<'_, (u64, u64), &'static [u8]>,
    key: usize,
    contents: &[Content],
) -> Result<u64> {
    let key = key as u64;
    let last = table.range((key, 0)..=(key, u64::MAX))?.next_back().transpose()?;
    let first = last.map_or(0, |(name, _)| name.value().1 + 1);
    for (index, content) in (first..).zip(contents) {
        table.insert((key, index), *content)?;
    }
    Ok(first)
}

impl Subject for Redb {
    const NAME: &'static str = "redb 4";
    const SURVIVES: Survives = Survives::Nothing;
    const READS_FROM_MEMORY: bool = true;
    type Place = (u64, u64);

    fn open(plan: &Plan) -> Result<Self> {
        let database = Database::create(plan.dir.join("redb"))?;
        let transaction = database.begin_write()?;
        drop(transaction.open_table(ENTRIES)?);
        transaction.commit()?;
        Ok(Self { database, keys: plan.keys.len() })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Self::Place> {
        Ok((key as u64, self.commit(key, &[content], Durability::None)?))
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], durable: bool) -> Result<()> {
        let durability = if durable { Durability::Immediate } else { Durability::None };
        self.commit(key, contents, durability).map(drop)
    }

    fn append_durably(&self, key: usize, content: Content) -> Result<()> {
        self.commit(key, &[content], Durability::Immediate).map(drop)
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        let transaction = self.database.begin_write()?;
        let mut table = transaction.open_table(ENTRIES)?;
        for key in 0..self.keys {
            append_to(&mut table, key, &[content])?;
        }
        drop(table);
        Ok(transaction.commit()?)
    }

    fn fill(&mut self, key: usize, contents: &[Content]) -> Result<Vec<Self::Place>> {
        let first = self.commit(key, contents, Durability::None)?;
        Ok((first..).take(contents.len()).map(|index| (key as u64, index)).collect())
    }

    fn publish(&mut self) -> Result<()> {
        Ok(self.database.begin_write()?.commit()?)
    }

    fn close(mut self) -> Result<()> {
        self.publish()
    }

    fn reader(&self) -> Result<Reader<'_, Self::Place>> {
        let table = self.database.begin_read()?.open_table(ENTRIES)?;
        Ok(Box::new(move |place| {
            let found = table.get(place)?;
            Ok(found.ok_or_else(|| Failure::Failed("no entry there".into()))?.value().len())
        }))
    }

    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let table = self.database.begin_read()?.open_table(ENTRIES)?;
        let key = key as u64;
        for entry in table.range((key, 0)..=(key, u64::MAX))? {
            each(entry?.1.value());
        }
        Ok(())
    }
}
