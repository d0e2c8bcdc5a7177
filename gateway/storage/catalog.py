"""Collections, files and files in collections: the names that the rest of the gateway uses."""

from gateway.storage.attachments import (
    AttachmentRow,
    attach_file,
    attach_files,
    detach_file,
    get_attachment,
    list_attachments,
    update_attributes,
)
from gateway.storage.collections import (
    CollectionRow,
    FileCounts,
    count_files,
    create_collection,
    delete_collection,
    find_collections,
    get_collection,
    list_collections,
    update_collection,
)
from gateway.storage.files import (
    FileRow,
    create_file,
    delete_file,
    get_file,
    list_files,
)
from gateway.storage.reembedding import (
    Progress,
    cancel_reembedding,
    reembedding_progress,
    start_reembedding,
)

__all__ = [
    "AttachmentRow",
    "CollectionRow",
    "FileCounts",
    "FileRow",
    "Progress",
    "attach_file",
    "attach_files",
    "cancel_reembedding",
    "count_files",
    "create_collection",
    "create_file",
    "delete_collection",
    "delete_file",
    "detach_file",
    "find_collections",
    "get_attachment",
    "get_collection",
    "get_file",
    "list_attachments",
    "list_collections",
    "list_files",
    "reembedding_progress",
    "start_reembedding",
    "update_attributes",
    "update_collection",
]
