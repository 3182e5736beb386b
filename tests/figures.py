"""What a scrape says, to compare with what has really happened: the figures of a process only ever add up."""

from prometheus_client.parser import text_string_to_metric_families


class Figures:
    """`figures["chat_tokens_total", "kind=input"]`: the sum of all series of that name with these labels; 0 if none."""

    def __init__(self, page: str) -> None:
        self.page = page
        self._samples = [
            (sample.name, {f"{name}={value}" for name, value in sample.labels.items()}, sample.value)
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        ]

    def __getitem__(self, wanted: str | tuple[str, ...]) -> float:
        name, *labels = [wanted] if isinstance(wanted, str) else wanted
        return sum(value for found, has, value in self._samples if found == name and has >= set(labels))

    def names(self) -> set[str]:
        return {name for name, _, _ in self._samples}
