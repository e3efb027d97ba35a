"""The cases of a run by their content, and the verdicts found for them. No network, no event loop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from raypipe.errors import ServiceError
from raypipe.grading.rubrics import Rubric
from raypipe.judge.cache import VerdictCache
from raypipe.judge.case import Case, Cases, RubricOf, shared
from raypipe.judge.index import VerdictIndex
from raypipe.judge.log import VERDICTS, VerdictLog
from raypipe.records import VERDICT_SCHEMA, Outcome, Prediction, Verdict, fingerprint, to_table
from raypipe.settings import JudgeSettings
from raypipe.store.shards import encode
from raypipe.store.verify_evaluate import VIEW, unseal

SNAPSHOT = f"{VERDICTS}/snapshot.json"  # the snapshot that counts, once another one was replaced


@dataclass
class Entry:
    """One content to judge: the questions that share it, and its verdict once there is one."""

    case: Case
    question_ids: list[str] = field(default_factory=list)
    verdict: Verdict | None = None


class Book:
    """See the module.

    Raises:
        ServiceError: from methods that write: the disk or the service refused.
    """

    def __init__(
        self,
        log: VerdictLog,
        rubric_of: RubricOf,
        rubrics: Mapping[str, Rubric],
        settings: JudgeSettings,
        known: Iterable[Verdict] = (),
        cache: VerdictCache | None = None,
    ) -> None:
        self._log, self._settings = log, settings
        self._cases = Cases(rubric_of, rubrics, settings)
        self._own = VerdictIndex([log.ledger])
        self._known = {v.key: v for v in (*known, *log.held) if v.outcome is Outcome.OK}
        self._cache = cache
        self._entries: dict[str, Entry] = {}
        self._order: list[tuple[str, str]] = []  # key and question id, as added
        self._paid: list[Verdict] = []
        self._judge = fingerprint(settings.name, settings.model, settings.temperature)
        self._snapshot = self._stored_snapshot()
        self._retired: set[str] = set()  # snapshots that were replaced in this start
        self._late = 0
        self.settled = 0

    @property
    def total(self) -> int:
        return len(self._order)

    def add(self, predictions: Iterable[Prediction]) -> list[Entry]:
        """Notes answers; takes over what is known of them, and returns what has to be asked.

        Raises:
            RequestError: no such rubric.
        """
        new: dict[str, Entry] = {}
        rows: list[Verdict] = []
        for case in self._cases.of(predictions):
            entry = self._entries.get(case.key)
            if entry is None:
                entry = self._entries[case.key] = new[case.key] = Entry(case)
            fresh = [i for i in case.question_ids if i not in entry.question_ids]
            entry.question_ids += fresh
            self._order += [(case.key, i) for i in fresh]
            if entry.verdict:
                rows += shared(entry.verdict, fresh)
                self.settled += len(fresh)
        rows += self._take_over(new)
        if rows:
            self._log.append(rows)
        return [entry for entry in new.values() if entry.verdict is None]

    def commit(self, done: Sequence[tuple[Entry, Verdict]]) -> list[Entry]:
        """Writes verdicts, one row for each question that shares them; returns what has to be asked again.

        Raises:
            ServiceError: another snapshot of the judge answered; what it said is written all the same.
        """
        self._log.append([row for entry, verdict in done for row in shared(verdict, entry.question_ids)])
        again: list[Entry] = []
        for entry, verdict in done:
            older = self._new_snapshot(entry, verdict)
            again += older
            if entry in older:
                continue
            entry.verdict = verdict
            self.settled += len(entry.question_ids)
            if verdict.outcome is Outcome.OK:
                self._paid.append(verdict)
        return again

    def verdicts(self) -> list[Verdict]:
        """One for each question and rubric that has one, in the order they were added."""
        found = ((self._entries[key].verdict, question_id) for key, question_id in self._order)
        return [replace(v, question_id=question_id) for v, question_id in found if v is not None]

    def paid(self) -> list[Verdict]:
        """The run's verdicts that the cache lacked when this start began."""
        return self._paid

    def write_view(self, verdicts: Sequence[Verdict]) -> None:
        """Writes down which verdicts count; until then those of the judging before it do."""
        if verdicts:
            data = encode(to_table(verdicts, VERDICT_SCHEMA), batch=4096)
            unseal(self._log.store)  # the scores are of the verdicts before
            self._log.store.replace(VIEW, data)

    def _take_over(self, new: Mapping[str, Entry]) -> list[Verdict]:
        """Settles what is known; returns the rows that the ledger lacks of it.

        What other runs have by another snapshot than this one's is of no use here, and asked.

        Raises:
            ServiceError: some of this run's own is by another snapshot than the rest, and is not to be judged
                again.
        """
        own = self._own.find(list(new))
        cached = self._cache.find(list(new)) if self._cache else {}
        found = {k: own.get(k) or ([self._known[k]] if k in self._known else cached.get(k, [])) for k in new}
        self._choose_snapshot(own.values() if own else found.values())
        rows: list[Verdict] = []
        for key, verdicts in found.items():
            entry = new[key]
            of_snapshot = [v for v in verdicts if self._name(v) == self._snapshot]
            if key in own and not of_snapshot and self._settings.new_snapshot == "stop":
                raise self._mixed(self._snapshot or "", self._name(verdicts[0]))
            if not of_snapshot:
                continue
            entry.verdict = of_snapshot[0]
            self.settled += len(entry.question_ids)
            if key in own and key not in cached:
                self._paid.append(entry.verdict)  # by a start that was killed before it shared them
            has = {v.question_id for v in of_snapshot} if key in own else set()
            rows += [row for row in shared(entry.verdict, entry.question_ids) if row.question_id not in has]
        return rows

    def _choose_snapshot(self, found: Iterable[Sequence[Verdict]]) -> None:
        """The snapshot that most of what is known is by, unless an earlier start has said which."""
        if self._snapshot is None:
            names = Counter(name for verdicts in found for name in {self._name(v) for v in verdicts})
            self._snapshot = max(sorted(names), key=lambda name: names[name], default=None)

    def _new_snapshot(self, entry: Entry, verdict: Verdict) -> list[Entry]:
        """What has to be asked again because another snapshot answered."""
        if verdict.outcome is not Outcome.OK:
            return []
        name = self._name(verdict)
        if self._snapshot is None:
            self._snapshot = name
        if name == self._snapshot:
            return []
        if name in self._retired and self._late < self._settings.concurrency:
            self._late += 1  # asked before the change
            return [entry]
        if self._settings.new_snapshot == "stop" or self._retired:
            raise self._mixed(self._snapshot, name)
        self._retired.add(self._snapshot)
        self._snapshot = name
        self._log.store.replace(SNAPSHOT, json.dumps({self._judge: name}).encode())
        older = [e for e in self._entries.values() if e.verdict and e.verdict.outcome is Outcome.OK]
        older = [e for e in older if e.verdict and self._name(e.verdict) != name]
        for one in older:
            one.verdict = None
            self.settled -= len(one.question_ids)
        return older

    def _stored_snapshot(self) -> str | None:
        store = self._log.store
        if not store.exists(SNAPSHOT):
            return None
        return json.loads(store.read(SNAPSHOT)).get(self._judge)

    def _mixed(self, before: str, name: str) -> ServiceError:
        twice = " again" if self._retired else ""
        return ServiceError(
            f"the judge changed{twice}: it answered as {before or 'no named model'} and now answers as "
            f"{name or 'no named model'}; a score never mixes the two, and all verdicts are kept",
            "name the exact model (judge.model), or set judge.new_snapshot=judge_again to ask again what the "
            "older one judged",
        )

    def _name(self, verdict: Verdict) -> str:
        if self._settings.pin == "model":
            return verdict.judge_model
        return f"{verdict.judge_model} {verdict.fingerprint}"
