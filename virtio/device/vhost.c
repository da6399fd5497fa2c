/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The vhost-user back end of a block device. See vhost.h.
 *
 *     SET_FEATURES, SET_MEM_TABLE, SET_VRING_NUM/BASE/ADDR/CALL   what the next start will use
 *     SET_VRING_KICK      the ring may run          SET_VRING_ENABLE   ... and shall
 *     GET_VRING_BASE      the ring shall rest; answered when what was taken from it is published
 *
 * Until GET_VRING_BASE is answered the guest's memory is ours to write; afterwards never, so the
 * answer waits for the disk. The bridge, which does not wait for ever, may have answered in our
 * place and sent a new start: it begins when the old one has come to rest, at the base that came
 * with it (`rebased`).
 *
 * SET_MEM_TABLE while rings run: their own areas and what was taken stay where they were, all in
 * memory that stays mapped; later descriptors are looked up in the new table.
 *
 * Missing on purpose: logging for migration, in-flight buffers (used entries are published in order
 * instead), memory slots, postcopy, iommu.
 */
#include "virtio/device/vhost.h"

#define PROTOCOL_FEATURES                                                         \
    (1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | \
     1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ | 1ull << VHOST_USER_PROTOCOL_F_CONFIG)
#define REGION_ALIGN 4096u

static struct vhost *of(struct vdisk *d)
{
    return container_of(d, struct vhost, disk);
}

/* ---- Rings ------------------------------------------------------------------------------------ */

/* From the front end's address to a guest's; anything else if there is no such. */
static uint64_t guest_address(const struct vhost *v, uint64_t user)
{
    for (unsigned i = 0; i < v->windows.count; i++)
        if (user >= v->user[i] && user - v->user[i] < v->window[i].len)
            return v->window[i].base + (user - v->user[i]);
    return UINT64_MAX;
}

static bool wanted(const struct vhost *v, const struct vhost_ring *r)
{
    bool enabled = r->enabled || !(v->features >> VHOST_USER_F_PROTOCOL_FEATURES & 1);
    return !v->replaying && r->kicked && enabled && r->placed && r->size && !r->failed;
}

static void start(struct vhost *v, unsigned index)
{
    struct vhost_ring *r = &v->ring[index];
    r->rebased = false;
    r->failed = vdisk_start(&v->disk, index, &v->windows, r->size, guest_address(v, r->desc),
                            guest_address(v, r->avail), guest_address(v, r->used), r->base) < 0;
}

static void settle(struct vhost *v, unsigned index)
{
    struct vhost_ring *r = &v->ring[index];
    enum vdisk_state state = v->disk.queue[index].state;
    if (state == VDISK_OPEN && !wanted(v, r))
        vdisk_stop(&v->disk, index, false);
    if (state != VDISK_CLOSED)
        return;
    if (r->asked) {
        r->asked = false;
        r->ready = true;
        v->ops->base_ready(v);
    }
    if (wanted(v, r))
        start(v, index);
}

static void idle(struct vdisk *d, unsigned index)
{
    struct vhost *v = of(d);
    if (!v->ring[index].rebased)
        v->ring[index].base = vdisk_base(d, index);
    settle(v, index);
}

static void interrupt(struct vdisk *d, unsigned index)
{
    struct vhost *v = of(d);
    if (v->ring[index].signal)
        v->ops->interrupt(v, v->ring[index].call);
}

static const struct vdisk_ops disk_ops = {.interrupt = interrupt, .idle = idle};

void vhost_reset(struct vhost *v, bool replaying)
{
    v->disk.ops = &disk_ops;
    v->replaying = replaying;
    v->features = v->protocol = 0;
    v->windows = (struct vmemory){v->window, 0};
    for (unsigned i = 0; i < v->disk.nqueues; i++) {
        v->ring[i] = (struct vhost_ring){.rebased = true};
        vdisk_stop(&v->disk, i, true);
    }
}

/* Whoever waits for what was completed just before a restart may have missed its interrupt. */
void vhost_replayed(struct vhost *v)
{
    v->replaying = false;
    for (unsigned i = 0; i < v->disk.nqueues; i++) {
        settle(v, i);
        if (v->ring[i].kicked)
            interrupt(&v->disk, i);
    }
}

void vhost_rest(struct vhost *v)
{
    for (unsigned i = 0; i < v->disk.nqueues; i++) {
        v->ring[i].kicked = v->ring[i].enabled = false;
        settle(v, i);
    }
}

bool vhost_at_rest(const struct vhost *v)
{
    for (unsigned i = 0; i < v->disk.nqueues; i++)
        if (v->disk.queue[i].state != VDISK_CLOSED)
            return false;
    return true;
}

/* ---- Messages --------------------------------------------------------------------------------- */

/* Handlers: `out` is the reply's payload. They return its length; 0: there is none; SR_EINVAL. */

static int reply_u64(uint8_t *out, uint64_t value)
{
    le64_set((le64 *)(void *)out, value);
    return sizeof(le64);
}

static uint64_t u64_of(const struct vhost_message *m)
{
    le64 value;
    memcpy(&value, m->payload, sizeof(value));
    return le64_get(value);
}

static int get_features(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)m;
    return reply_u64(out, vdisk_features(&v->disk) | 1ull << VHOST_USER_F_PROTOCOL_FEATURES);
}

static int set_features(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out;
    v->features = u64_of(m);
    vdisk_set_features(&v->disk, v->features);
    return 0;
}

static int get_protocol_features(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)v, (void)m;
    return reply_u64(out, PROTOCOL_FEATURES);
}

static int set_protocol_features(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out;
    v->protocol = u64_of(m) & PROTOCOL_FEATURES;
    return 0;
}

static int get_queue_num(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)m;
    return reply_u64(out, v->disk.nqueues);
}

static int nothing(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)v, (void)m, (void)out;
    return 0;
}

static int reset_owner(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)m, (void)out;
    vhost_rest(v);
    return 0;
}

/* Memory that lies elsewhere is no window: what points there is refused when it comes. */
static int add_region(struct vhost *v, const struct vhost_user_region *r, uint64_t handle)
{
    uint64_t guest = le64_get(r->guest_addr), size = le64_get(r->size);
    uint64_t user = le64_get(r->user_addr), offset = le64_get(r->offset);
    if (!size || size - 1 > UINT64_MAX - guest || size - 1 > UINT64_MAX - user)
        return SR_EINVAL;
    if (handle == BRIDGE_ELSEWHERE)
        return 0;
    if (handle || !v->memory || !range_ok(offset, size, v->memory_size) ||
        !is_aligned(guest | user | offset, REGION_ALIGN))
        return SR_EINVAL;
    v->user[v->windows.count] = user;
    v->window[v->windows.count++] = (struct vwindow){guest, size, v->memory + offset};
    return 0;
}

static int set_mem_table(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out;
    struct vhost_user_memory head;
    struct vhost_user_region region;
    memcpy(&head, m->payload, sizeof(head));
    uint32_t count = le32_get(head.count);
    if (count > VHOST_USER_REGIONS || m->handles != count ||
        m->size != sizeof(head) + count * sizeof(region))
        return SR_EINVAL;
    v->windows.count = 0;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(&region, m->payload + sizeof(head) + i * sizeof(region), sizeof(region));
        int rc = add_region(v, &region, m->handle[i]);
        if (rc) {
            v->windows.count = 0;
            return rc;
        }
    }
    return 0;
}

/* NULL: there is no such ring. All payloads with an index have it in their first four bytes. */
static struct vhost_ring *ring_of(struct vhost *v, const struct vhost_message *m, uint32_t *index)
{
    le32 i;
    memcpy(&i, m->payload, sizeof(i));
    *index = le32_get(i);
    return *index < v->disk.nqueues ? &v->ring[*index] : NULL;
}

static struct vhost_ring *state_of(struct vhost *v, const struct vhost_message *m, uint32_t *index,
                                   uint32_t *num)
{
    struct vhost_user_vring_state s;
    memcpy(&s, m->payload, sizeof(s));
    *num = le32_get(s.num);
    return ring_of(v, m, index);
}

static int set_vring_num(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out;
    uint32_t index, num;
    struct vhost_ring *r = state_of(v, m, &index, &num);
    if (!r || !is_pow2(num) || num > VDISK_QUEUE_SIZE)
        return SR_EINVAL;
    r->size = (uint16_t)num;
    r->failed = false;
    return 0;
}

static int set_vring_base(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out;
    uint32_t index, num;
    struct vhost_ring *r = state_of(v, m, &index, &num);
    if (!r || num > UINT16_MAX)
        return SR_EINVAL;
    r->base = (uint16_t)num;
    r->rebased = true;
    r->asked = r->ready = false; /* answered by the bridge, if ever asked */
    return 0;
}

static int set_vring_addr(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out;
    uint32_t index;
    struct vhost_user_vring_addr a;
    struct vhost_ring *r = ring_of(v, m, &index);
    if (!r)
        return SR_EINVAL;
    memcpy(&a, m->payload, sizeof(a));
    r->desc = le64_get(a.desc);
    r->avail = le64_get(a.avail);
    r->used = le64_get(a.used);
    r->placed = true;
    r->failed = false;
    return 0;
}

static int set_vring_kick(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out; /* whichever vector it is: any of them wakes the loop, which looks at all rings */
    uint32_t index = u64_of(m) & VHOST_USER_VRING_INDEX;
    if (index >= v->disk.nqueues)
        return SR_EINVAL;
    v->ring[index].kicked = true;
    v->ring[index].failed = false;
    settle(v, index);
    return 0;
}

/* While the ring runs: the front end may just have looked at the old one for the last time. */
static int set_vring_call(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out;
    uint32_t index = u64_of(m) & VHOST_USER_VRING_INDEX;
    if (index >= v->disk.nqueues || (m->handles && m->handle[0] > UINT32_MAX))
        return SR_EINVAL;
    v->ring[index].signal = m->handles;
    v->ring[index].call = m->handles ? (uint32_t)m->handle[0] : 0;
    if (v->ring[index].kicked && !v->replaying)
        interrupt(&v->disk, index);
    return 0;
}

static int set_vring_enable(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out;
    uint32_t index, num;
    struct vhost_ring *r = state_of(v, m, &index, &num);
    if (!r)
        return SR_EINVAL;
    r->enabled = num;
    settle(v, index);
    return 0;
}

static int get_vring_base(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out;
    uint32_t index;
    struct vhost_ring *r = ring_of(v, m, &index);
    if (!r)
        return SR_EINVAL;
    r->kicked = r->ready = false;
    r->asked = true;
    r->tag = m->tag;
    settle(v, index);
    return 0;
}

static bool config_range(const struct vhost_message *m, uint32_t *off, uint32_t *size)
{
    struct vhost_user_config c;
    memcpy(&c, m->payload, sizeof(c));
    *off = le32_get(c.offset);
    *size = le32_get(c.size);
    return range_ok(*off, *size, VHOST_USER_CONFIG_BYTES) && *size <= m->size - sizeof(c);
}

/* "Exactly the requested size", and no payload says that it cannot be had. */
static int get_config(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    uint32_t off, size;
    if (!config_range(m, &off, &size))
        return SR_EINVAL;
    memcpy(out, m->payload, sizeof(struct vhost_user_config));
    vdisk_config_read(&v->disk, off, out + sizeof(struct vhost_user_config), size);
    return (int)(sizeof(struct vhost_user_config) + size);
}

static int set_config(struct vhost *v, const struct vhost_message *m, uint8_t *out)
{
    (void)out;
    uint32_t off, size;
    if (!config_range(m, &off, &size))
        return SR_EINVAL;
    int rc = vdisk_config_write(&v->disk, off, m->payload + sizeof(struct vhost_user_config), size);
    if (rc) /* the guest's mistake, and not its QEMU's: no reason to part */
        log_limited("vhost", "export %s: a configuration write is out of range", v->disk.id);
    return 0;
}

static const struct handler {
    uint32_t min; /* bytes of payload */
    bool replies; /* by itself, now or later */
    int (*run)(struct vhost *v, const struct vhost_message *m, uint8_t *out);
} handlers[] = {
    [VHOST_USER_GET_FEATURES] = {0, true, get_features},
    [VHOST_USER_SET_FEATURES] = {8, false, set_features},
    [VHOST_USER_SET_OWNER] = {0, false, nothing},
    [VHOST_USER_RESET_OWNER] = {0, false, reset_owner},
    [VHOST_USER_SET_MEM_TABLE] = {sizeof(struct vhost_user_memory), false, set_mem_table},
    [VHOST_USER_SET_VRING_NUM] = {sizeof(struct vhost_user_vring_state), false, set_vring_num},
    [VHOST_USER_SET_VRING_ADDR] = {sizeof(struct vhost_user_vring_addr), false, set_vring_addr},
    [VHOST_USER_SET_VRING_BASE] = {sizeof(struct vhost_user_vring_state), false, set_vring_base},
    [VHOST_USER_GET_VRING_BASE] = {sizeof(struct vhost_user_vring_state), true, get_vring_base},
    [VHOST_USER_SET_VRING_KICK] = {8, false, set_vring_kick},
    [VHOST_USER_SET_VRING_CALL] = {8, false, set_vring_call},
    [VHOST_USER_SET_VRING_ERR] = {8, false, nothing},
    [VHOST_USER_GET_PROTOCOL_FEATURES] = {0, true, get_protocol_features},
    [VHOST_USER_SET_PROTOCOL_FEATURES] = {8, false, set_protocol_features},
    [VHOST_USER_GET_QUEUE_NUM] = {0, true, get_queue_num},
    [VHOST_USER_SET_VRING_ENABLE] = {sizeof(struct vhost_user_vring_state), false,
                                     set_vring_enable},
    [VHOST_USER_SET_BACKEND_REQ_FD] = {0, false, nothing},
    [VHOST_USER_GET_CONFIG] = {sizeof(struct vhost_user_config), true, get_config},
    [VHOST_USER_SET_CONFIG] = {sizeof(struct vhost_user_config), false, set_config},
};

/* The header in front of `len` bytes of payload; the whole length. */
static size_t finish_reply(uint8_t *reply, uint32_t request, size_t len)
{
    struct vhost_user_header *h = (struct vhost_user_header *)(void *)reply;
    le32_set(&h->request, request);
    le32_set(&h->flags, VHOST_USER_VERSION | VHOST_USER_REPLY);
    le32_set(&h->size, (uint32_t)len);
    return sizeof(*h) + len;
}

int vhost_message(struct vhost *v, const struct vhost_message *m, uint8_t *reply)
{
    uint8_t *out = reply + sizeof(struct vhost_user_header);
    const struct handler *h = m->request < ARRAY_LEN(handlers) ? &handlers[m->request] : NULL;
    int rc = h && h->run && m->size >= h->min ? h->run(v, m, out) : SR_EINVAL;
    bool acknowledge = m->need_reply && v->protocol >> VHOST_USER_PROTOCOL_F_REPLY_ACK & 1;
    if (rc < 0)
        log_limited("vhost", "export %s: message %u of %u bytes makes no sense", v->disk.id,
                    m->request, m->size);
    if (h && h->replies) {
        if (rc <= 0)
            return rc;
    } else if (acknowledge) {
        rc = reply_u64(out, rc < 0);
    } else {
        return rc;
    }
    return (int)finish_reply(reply, m->request, (size_t)rc);
}

size_t vhost_base_reply(struct vhost *v, uint8_t *reply, uint16_t *tag)
{
    for (unsigned i = 0; i < v->disk.nqueues; i++) {
        struct vhost_ring *r = &v->ring[i];
        if (!r->ready)
            continue;
        r->ready = false;
        *tag = r->tag;
        struct vhost_user_vring_state s;
        le32_set(&s.index, i);
        le32_set(&s.num, r->base);
        memcpy(reply + sizeof(struct vhost_user_header), &s, sizeof(s));
        return finish_reply(reply, VHOST_USER_GET_VRING_BASE, sizeof(s));
    }
    return 0;
}

bool vhost_hears_changes(const struct vhost *v)
{
    return v->protocol >> VHOST_USER_PROTOCOL_F_BACKEND_REQ & 1;
}

size_t vhost_config_change(uint8_t *message)
{
    size_t len = finish_reply(message, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 0);
    le32_set(&((struct vhost_user_header *)(void *)message)->flags, VHOST_USER_VERSION);
    return len;
}
