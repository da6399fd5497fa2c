/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From a guest offset to an extent: what lies there, where, and how far it goes on alike.
 *
 *     guest offset   | L1 index | L2 index                      | in cluster      |
 *                    |    key of the slice    | index in slice  |                 |
 *
 * Entries of a slice are decoded one after the other as long as the next continues the extent: the
 * same kind, and for data the next host cluster. So adjacent clusters come out as one extent, and a
 * read of them is one request below.
 *
 * An ordinary data cluster is recognised by one test: `not_plain` has every bit that its entry may
 * not have, that is compressed, zero, reserved bits, and offset bits below the cluster size. What
 * fails it is looked at in detail (decode_rare); with extended L2 entries, or an external data file,
 * that is every entry.
 *
 * Nothing outside of the file is ever an extent: an entry that points there is an error of the image
 * (SR_EIO for this request, and a line, rate-limited), while the part of a last cluster that the
 * file does not have reads as zeroes, as in QEMU. An entry in error ends the extent before it, and
 * fails only who wants it.
 */
#include "formats/qcow2/writer.h"

/* An image that is written is not written any more; the home loop sees to that. */
static int corrupt(const struct qcow2 *s, const char *what, uint64_t off, uint64_t value)
{
    if (s->w && loop_id() == s->node->home_loop)
        return qcow2_corruption(s->node->state, off, "%s, 0x%llx", what, (unsigned long long)value);
    log_limited("qcow2", "node %s: image is corrupt: %s at guest offset 0x%llx (0x%llx)",
                s->node->name, what, (unsigned long long)off, (unsigned long long)value);
    return SR_EIO;
}

/* The wrong one was given, or not all of it is back: nothing is wrong with the image. */
static int data_file_short(const struct qcow2 *s, uint64_t off)
{
    log_limited("qcow2", "node %s: data file ends before guest offset 0x%llx", s->node->name,
                (unsigned long long)off);
    return SR_EIO;
}

/* ---- one entry ---- */

/* Data at `host`, the cluster that holds `off`: e->len goes to the end of the run already. */
static int place_data(const struct qcow2 *s, uint64_t off, uint64_t host, struct extent *e)
{
    uint64_t in = off & s->cluster_mask, size = size_of(s->data);
    if (unlikely(host >= size))
        return s->external ? data_file_short(s, off)
                           : corrupt(s, "cluster outside of the file", off, host);
    e->type = EXTENT_DATA;
    e->host = host + in;
    if (unlikely(e->host >= size))
        e->type = EXTENT_ZERO;
    else if (unlikely(e->len > size - e->host))
        e->len = size - e->host;
    return 0;
}

static int decode_compressed(const struct qcow2 *s, uint64_t entry, uint64_t off, struct extent *e)
{
    uint64_t size = size_of(s->node->file), host = entry & ((1ull << s->csize_shift) - 1);
    uint64_t sectors = (entry & (QCOW2_L2_COMPRESSED - 1)) >> s->csize_shift;
    if (s->external)
        return corrupt(s, "compressed cluster with an external data file", off, entry);
    if (host >= size || host <= s->cluster_mask)
        return corrupt(s, "compressed cluster outside of the file", off, entry);
    uint64_t len = (sectors + 1) * QCOW2_SECTOR - host % QCOW2_SECTOR;
    e->type = EXTENT_COMPRESSED;
    e->host = host;
    e->csize = (uint32_t)MIN(len, size - host);
    return 0;
}

/* The run of subclusters alike from `off` on, within the cluster. host: 0 for none. */
static int decode_bitmap(const struct qcow2 *s, uint64_t bitmap, uint64_t off, uint64_t host,
                         bool has_host, struct extent *e)
{
    unsigned shift = s->cluster_bits - QCOW2_SUBCLUSTER_BITS;
    uint64_t in = off & s->cluster_mask;
    unsigned first = (unsigned)(in >> shift);
    uint32_t data = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);
    if (data & zero)
        return corrupt(s, "subcluster both allocated and zero", off, bitmap);
    if (data && !has_host)
        return corrupt(s, "subclusters without a cluster", off, bitmap);
    bool is_data = data >> first & 1, is_zero = zero >> first & 1;
    /* Bits where the kind changes, from `first` on. */
    uint32_t other = (is_data ? ~data : is_zero ? ~zero : data | zero) >> first;
    unsigned run = other ? (unsigned)__builtin_ctz(other) : (1u << QCOW2_SUBCLUSTER_BITS) - first;
    e->len = ((uint64_t)(first + run) << shift) - in;
    e->len = MIN(e->len, s->cluster_mask + 1 - in);
    e->type = is_zero ? EXTENT_ZERO : EXTENT_UNALLOCATED;
    return is_data ? place_data(s, off, host, e) : 0;
}

/* Everything but an ordinary data cluster; e->len is to the end of the cluster. */
static __attribute__((noinline)) int decode_rare(const struct qcow2 *s, const be64 *at,
                                                 uint64_t off, struct extent *e)
{
    uint64_t entry = entry_get(at), host = entry & QCOW2_OFFSET_MASK;
    bool has_host = host || (s->external && (entry & QCOW2_COPIED));
    if (entry & QCOW2_L2_COMPRESSED)
        return decode_compressed(s, entry, off, e);
    if (entry & QCOW2_L2_RESERVED)
        return corrupt(s, "reserved bits in an L2 entry", off, entry);
    if (host & s->cluster_mask)
        return corrupt(s, "cluster offset is not aligned", off, entry);
    if (s->external && has_host && host != (off & ~s->cluster_mask))
        return corrupt(s, "not at its guest offset in the data file", off, entry);
    if ((entry & QCOW2_L2_ZERO) && (s->extended || s->version < 3))
        return corrupt(s, "zero flag where there is none", off, entry);
    if (s->extended)
        return decode_bitmap(s, be64_get(at[1]), off, host, has_host, e);
    e->type = EXTENT_UNALLOCATED;
    if (entry & QCOW2_L2_ZERO)
        e->type = EXTENT_ZERO;
    else if (has_host)
        return place_data(s, off, host, e);
    return 0;
}

static inline int decode(const struct qcow2 *s, const be64 *slice, uint64_t off, struct extent *e)
{
    uint64_t index = off >> s->cluster_bits & s->index_mask;
    const be64 *at = slice + (index << s->extended);
    uint64_t entry = entry_get(at), host = entry & ~QCOW2_COPIED;
    e->len = s->cluster_mask + 1 - (off & s->cluster_mask);
    if (likely(!(entry & s->not_plain) && host))
        return place_data(s, off, host, e);
    return decode_rare(s, at, off, e);
}

/* ---- runs ---- */

static bool joins(const struct extent *a, const struct extent *b, bool join_compressed)
{
    if (a->type != b->type)
        return false;
    if (a->type == EXTENT_DATA)
        return a->host + a->len == b->host;
    return a->type != EXTENT_COMPRESSED || join_compressed;
}

/* What follows is only joined, never reported: whoever wants it asks for it. */
static void extend(const struct qcow2 *s, const be64 *slice, uint64_t off, uint64_t len,
                   struct extent *e)
{
    uint64_t room = (1ull << s->slice_shift) - (off & ((1ull << s->slice_shift) - 1));
    struct extent next;
    len = MIN(len, room);
    while (e->len < len && !decode(s, slice, off + e->len, &next) && joins(e, &next, false))
        e->len += next.len;
}

int qcow2_slice_host(const struct qcow2 *s, uint64_t off, uint64_t *host)
{
    uint64_t i = off >> s->l2_shift;
    *host = 0;
    if (i >= s->l1_entries)
        return SR_EIO;
    uint64_t entry = entry_get(&s->l1[i]), table = entry & QCOW2_OFFSET_MASK;
    if (entry & QCOW2_L1_RESERVED)
        return corrupt(s, "reserved bits in an L1 entry", off, entry);
    if (!table)
        return 0;
    uint64_t slice = (off >> s->slice_shift) & ((1ull << (s->l2_shift - s->slice_shift)) - 1);
    uint64_t at = table + slice * s->l2.slice_size;
    if ((table & s->cluster_mask) || !range_ok(at, s->l2.slice_size, size_of(s->node->file)))
        return corrupt(s, "L2 table outside of the file, or not aligned", off, entry);
    *host = at;
    return 0;
}

/* No slice in the cache: none needed, or where it is. */
#define MAP_L1_MOST 65536u /* entries looked at in one go */
static __attribute__((noinline)) int map_l1(const struct qcow2 *s, uint64_t off, uint64_t len,
                                            struct extent *e, uint64_t *host)
{
    uint64_t i = off >> s->l2_shift, table_size = 1ull << s->l2_shift, last;
    int r = qcow2_slice_host(s, off, host);
    if (r)
        return r;
    if (*host)
        return SR_EAGAIN;
    e->type = EXTENT_UNALLOCATED;
    e->len = table_size - (off & (table_size - 1));
    last = MIN(s->l1_entries, i + MAP_L1_MOST);
    while (e->len < len && ++i < last && !entry_get(&s->l1[i]))
        e->len += table_size;
    return 0;
}

int qcow2_map(struct qcow2 *s, uint64_t off, uint64_t len, struct extent *e, uint64_t *host)
{
    const struct l2_slice *slice = l2_lookup(&s->l2, off >> s->slice_shift);
    if (unlikely(!slice))
        return map_l1(s, off, len, e, host);
    int r = decode(s, slice->entries, off, e);
    if (unlikely(e->len < len) && !r)
        extend(s, slice->entries, off, len, e);
    return r;
}

bool qcow2_map_in_place(const struct qcow2 *s, uint64_t off, size_t len, uint64_t *host)
{
    const struct l2_slice *slice = l2_lookup(&s->l2, off >> s->slice_shift);
    uint64_t in = off & s->cluster_mask, i = off >> s->cluster_bits & s->index_mask;
    if (unlikely(!slice || !__atomic_load_n(&slice->writable, __ATOMIC_RELAXED)))
        return false;
    uint64_t entry = entry_get(&slice->entries[i]),
             n = (in + len + s->cluster_mask) >> s->cluster_bits;
    uint64_t rare = __atomic_load_n(&s->not_in_place, __ATOMIC_RELAXED);
    if (unlikely((entry & rare) || !(entry & QCOW2_COPIED) || entry == QCOW2_COPIED))
        return false;
    if (unlikely(i + n > s->index_mask + 1))
        return false;
    for (uint64_t k = 1; k < n; k++)
        if (entry_get(&slice->entries[i + k]) != entry + (k << s->cluster_bits))
            return false;
    *host = (entry & ~QCOW2_COPIED) + in;
    return true;
}

/* ---- with loading ---- */

static int co_map_home(struct qcow2 *s, uint64_t off, uint64_t len, struct extent *e)
{
    uint64_t host;
    int r;
    while ((r = qcow2_map(s, off, len, e, &host)) == SR_EAGAIN) {
        r = co_l2_load(s, off >> s->slice_shift, host);
        if (r)
            break;
    }
    return r;
}

static int co_map_one(struct qcow2 *s, uint64_t off, uint64_t len, struct extent *e)
{
    uint64_t host;
    unsigned from = loop_id();
    bool here = !s->extended || from == s->node->home_loop; /* two words change together */
    int r = here ? qcow2_map(s, off, len, e, &host) : SR_EAGAIN;
    if (likely(r != SR_EAGAIN))
        return r;
    co_hop(s->node->home_loop);
    r = co_map_home(s, off, len, e);
    co_hop(from);
    return r;
}

#define MAP_MOST 64u /* extents joined in one go: bounds what a question costs */

int co_qcow2_map(struct qcow2 *s, uint64_t off, uint64_t len, bool join_compressed,
                 struct extent *e)
{
    struct extent next;
    int r = co_map_one(s, off, len, e);
    for (unsigned i = 0; !r && e->len < len && i < MAP_MOST; i++) {
        uint64_t at = off + e->len;
        if (at >> s->l2_shift >= s->l1_entries || co_map_one(s, at, len - e->len, &next) ||
            !joins(e, &next, join_compressed))
            break;
        e->len += next.len;
    }
    return r;
}
