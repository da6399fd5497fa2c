/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The worker: one loop over epoll. Sockets of peers are watched for edges (a message that is not
 * whole yet would otherwise wake us for ever), so each is looked at until it has nothing more, in
 * turns of STEPS, that one flood does not keep the others waiting.
 */
#include "worker.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define STEPS      32u
#define LINES      10u /* of the log that a sibling may cause at once, and then one per second */
#define SETTLE_MS  1
#define PEER_EDGES (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

struct sibling sibling[BRIDGE_SIBLINGS];
static int poller;
static bool relay_look;

uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000 + 1;
}

void look_at_all(void)
{
    for (unsigned i = 0; i < config.siblings; i++)
        sibling[i].look = true;
}

int sibling_commit(struct sibling *s)
{
    keep_put(s->number, &s->st, sizeof(s->st));
    int r = keep_commit();
    if (r < 0)
        s->st = s->kept;
    else
        s->kept = s->st;
    return r;
}

void sibling_say(struct sibling *s, const char *fmt, ...)
{
    char line[256];
    uint64_t now = now_ms();
    va_list ap;
    uint64_t earned = (now - s->line_at) / 1000;
    if (earned) {
        s->lines = earned > s->lines ? 0 : s->lines - (unsigned)earned;
        s->line_at = now;
    }
    if (s->lines++ >= LINES)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    say("sibling %s: %s", s->conf->name, line);
}

/* ------------------------------------------------------------------------------------------------
 * Events */

/* An event names its key and how often that has changed hands: what was closed, and is another's
 * now, may still have one in the batch that is being worked on. */
static uint32_t hands[KEYS];

void watch(uint32_t key, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u64 = (uint64_t)hands[key] << 32 | key};
    if (!events)
        epoll_ctl(poller, EPOLL_CTL_DEL, held[key], NULL);
    else if (epoll_ctl(poller, EPOLL_CTL_MOD, held[key], &e) < 0)
        epoll_ctl(poller, EPOLL_CTL_ADD, held[key], &e);
}

/* keep.h: what is held under `key` is another descriptor now. Those of rings: see signal.c. */
void held_changed(uint32_t key)
{
    hands[key]++;
    switch (key < KEY_RELAY_LISTEN ? key % KEYS_EACH : key) {
    case KEY_IVSHMEM_LISTEN:
    case KEY_VHOST_LISTEN:
    case KEY_RELAY_LISTEN:
        watch(key, EPOLLIN);
        break;
    case KEY_IVSHMEM:
    case KEY_VHOST:
    case KEY_RELAY:
        watch(key, PEER_EDGES);
    }
}

void held_closing(uint32_t key)
{
    epoll_ctl(poller, EPOLL_CTL_DEL, held[key], NULL); /* others have it, too: it would stay */
}

static void accept_relay(void)
{
    if (relay.up)
        say("storage VM: another connection takes the place of the old one");
    relay.up = relay.end_due = false;
    keep_begin();
    keep_accept(KEY_RELAY_LISTEN, KEY_RELAY);
    relay_commit();
    look_at_all();
}

static void relay_event(uint32_t key, uint32_t events)
{
    if (key == KEY_RELAY_LISTEN)
        accept_relay();
    else if (events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR))
        relay_closed();
    else
        look_at_all(); /* there may be room for what they want to send */
    relay_look = true;
}

static void device_gone(struct sibling *s)
{
    keep_begin();
    keep_drop(key_of(s, KEY_IVSHMEM));
    keep_commit();
}

static void socket_event(struct sibling *s, unsigned key, uint32_t events)
{
    bool gone = events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR);
    s->look = true;
    if (key == KEY_IVSHMEM_LISTEN)
        ivshmem_accept(s);
    else if (key == KEY_VHOST_LISTEN)
        s->knock = true;
    else if (gone && key == KEY_IVSHMEM)
        device_gone(s);
    else if (gone && key == KEY_VHOST)
        front_closed(s, NULL);
}

static void event(uint32_t key, uint32_t events)
{
    struct sibling *s = &sibling[key / KEYS_EACH];
    unsigned k = key % KEYS_EACH;
    if (k >= KEY_BELL)
        signal_bell(s, k - KEY_BELL);
    else if (k >= KEY_KICK && k < KEY_CALL)
        signal_kick(s, k - KEY_KICK);
    else
        socket_event(s, k, events);
}

/* ------------------------------------------------------------------------------------------------
 * Work */

static bool work_on_relay(void)
{
    relay_look = false;
    for (unsigned i = 0; i < STEPS; i++)
        if (relay_step() != MOVED)
            return false;
    return relay_look = true;
}

static bool work_on(struct sibling *s)
{
    s->look = false;
    for (unsigned i = 0; i < STEPS; i++)
        if (front_step(s) != MOVED)
            return s->look;
    return s->look = true;
}

/* Everybody in turn, each time beginning with another. True: there is more. */
static bool work(void)
{
    static unsigned first;
    bool more = relay_look && work_on_relay();
    first = (first + 1) % config.siblings;
    for (unsigned i = 0; i < config.siblings; i++) {
        struct sibling *s = &sibling[(first + i) % config.siblings];
        if (s->look || s->settling)
            more |= work_on(s);
    }
    return more;
}

/* Milliseconds to the next thing that is due, -1: nothing is. */
static int patience(void)
{
    uint64_t now = now_ms(), least = UINT64_MAX;
    for (unsigned i = 0; i < config.siblings; i++) {
        struct sibling *s = &sibling[i];
        if (s->since && now >= s->since + config.timeout)
            front_timeout(s);
        uint64_t left = s->look       ? 0
                        : s->settling ? SETTLE_MS
                        : s->since    ? s->since + config.timeout - now
                                      : UINT64_MAX;
        least = left < least ? left : least;
    }
    return least == UINT64_MAX ? -1 : (int)least;
}

static void restore(uint32_t record, const void *data, size_t len)
{
    if (record == RECORD_RELAY)
        relay_restore(data, len);
    else if (len == sizeof(struct state))
        memcpy(&sibling[record].st, data, len);
}

void worker_begin(int keeper)
{
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; i < config.siblings; i++) {
        sibling[i].number = i;
        sibling[i].conf = &config.sibling[i];
        sibling[i].look = true;
    }
    keep_restore(keeper, restore);
    for (unsigned i = 0; i < config.siblings; i++) {
        sibling[i].kept = sibling[i].st;
        signal_all(&sibling[i]);
    }
    relay_look = true;
}

bool worker_turn(bool more)
{
    struct epoll_event e[64];
    int n = epoll_wait(poller, e, LEN(e), more ? 0 : patience());
    for (int pass = 0; pass < 2; pass++) /* a session's end comes before the next one's devices */
        for (int i = 0; i < n; i++) {
            uint32_t key = (uint32_t)e[i].data.u64;
            bool valid = held[key] >= 0 && hands[key] == e[i].data.u64 >> 32;
            if (valid && pass == 0 && key >= KEY_RELAY_LISTEN)
                relay_event(key, e[i].events);
            else if (valid && pass == 1 && key < KEY_RELAY_LISTEN)
                event(key, e[i].events);
        }
    return work();
}

noreturn void worker_run(int keeper)
{
    sandbox_worker();
    worker_begin(keeper);
    for (bool more = true;;)
        more = worker_turn(more);
}
