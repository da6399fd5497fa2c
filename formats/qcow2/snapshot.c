/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Internal snapshots: the table is walked once at open, so that a damaged one is refused with the
 * sentences that QEMU has for it. What the snapshots hold is not served: their L1 tables are other
 * views of the disk, and reading the active one needs nothing of them; writing must know where these
 * tables lie.
 *
 *     snapshots_offset -> | entry, extra data, ID, name | pad to 8 | entry, ... |
 */
#include "formats/qcow2/qcow2.h"

static int entry_length(const struct qcow2_image *img, uint32_t i, const struct qcow2_snapshot *h,
                        uint64_t *len, struct error *err)
{
    uint32_t extra = be32_get(h->extra_data_size);
    if (extra > QCOW2_MAX_SNAPSHOT_EXTRA)
        return error_set(err, SR_EINVAL, "Too much extra metadata in snapshot table entry %u", i);
    if (be64_get(h->l1_table_offset) & ((1ull << img->cluster_bits) - 1))
        return error_set(err, SR_EINVAL, "Snapshot L1 table offset invalid");
    if (be32_get(h->l1_size) > QCOW2_MAX_L1_BYTES / 8)
        return error_set(err, SR_EINVAL, "Snapshot L1 table too large");
    *len = sizeof(*h) + extra + be16_get(h->id_str_size) + be16_get(h->name_size);
    return 0;
}

int co_qcow2_check_snapshots(struct child *file, struct qcow2_image *img, struct error *err)
{
    uint64_t off = img->snapshots_offset, len = 0, start = off;
    if (img->nb_snapshots &&
        !(img->snapshot_l1 = sr_calloc(img->nb_snapshots, sizeof(struct qcow2_l1))))
        return error_set(err, SR_ENOMEM, "Failed to read snapshot table: %s",
                         sr_strerror(SR_ENOMEM));
    for (uint32_t i = 0; i < img->nb_snapshots; i++) {
        struct qcow2_snapshot h;
        off = align_up(off, 8);
        if (!range_ok(off, sizeof(h), file->node->size))
            return error_set(err, SR_EINVAL,
                             "Failed to read snapshot table: it ends behind the file");
        int r = co_blk_pread(file, off, &h, sizeof(h));
        if (r)
            return error_set(err, r, "Failed to read snapshot table: %s", sr_strerror(r));
        r = entry_length(img, i, &h, &len, err);
        if (r)
            return r;
        img->snapshot_l1[i] =
            (struct qcow2_l1){be64_get(h.l1_table_offset), 8ull * be32_get(h.l1_size)};
        if (!range_ok(off, len, file->node->size))
            return error_set(err, SR_EINVAL,
                             "Failed to read snapshot table: it ends behind the file");
        off += len;
        if (off - start > QCOW2_MAX_SNAPSHOTS_BYTES)
            return error_set(err, SR_EINVAL, "Snapshot table is too big");
    }
    img->snapshots_bytes = off - start;
    return 0;
}
