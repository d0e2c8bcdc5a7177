"""Where the files beside the code are: model repository, Envoy template, the documents of the sample collection.

A wheel carries them in gateway/_assets; in a checkout they are the top folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.tensors import GENERATE_FOLDER, TIERS_REPOSITORY

REPOSITORIES = ("retrieval", "generation")
_DOCUMENTS = ("README.md", "ARCHITECTURE.md", "DECISIONS.md", "CHANGELOG.md", "CONTRIBUTING.md")


@dataclass(frozen=True)
class Assets:
    root: Path
    documents_root: Path

    @property
    def model_repositories(self) -> list[Path]:
        return [self.root / "model_repository" / name for name in REPOSITORIES]

    @property
    def generate_model(self) -> Path:
        """The one model of all generative tiers."""
        return self.root / "model_repository" / TIERS_REPOSITORY / GENERATE_FOLDER

    @property
    def envoy_template(self) -> Path:
        return self.root / "envoy" / "bootstrap.yaml.j2"

    @property
    def rules(self) -> Path:
        """Prometheus's recording and alerting rules."""
        return self.root / "k8s" / "components" / "monitoring" / "rules"

    @property
    def alertmanager(self) -> Path:
        return self.rules.with_name("alertmanager") / "alertmanager.yaml"

    @property
    def documents(self) -> list[Path]:
        """The project's own pages, in reading order; the bundled sample collection."""
        pages = [self.documents_root / name for name in _DOCUMENTS]
        pages += sorted((self.documents_root / "docs").glob("*.md"))
        return [page for page in pages if page.is_file()]


def package_parent() -> Path:
    """The folder that must be on the import path for `import gateway` to work."""
    return Path(__file__).resolve().parents[2]


def find_assets() -> Assets:
    bundled = package_parent() / "gateway" / "_assets"
    if bundled.is_dir():
        return Assets(root=bundled, documents_root=bundled / "documents")
    return Assets(root=package_parent(), documents_root=package_parent())
