/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The controller: capabilities, hand-off from firmware, its ports, interrupts, failure.
 *
 * Attach (10.1.2, 10.6): take it from firmware that says it owns it, turn AHCI on, look whether the
 * registers make sense, probe all ports side by side, announce what was found in the order of ports.
 * The controller is not reset: its links are up, and a reset would take them down.
 *
 * Interrupts only wake the loop. A port with something in flight is polled each turn. What ports have
 * to say that have nothing in flight (a device came or went) is looked for after a sleep, at most
 * every LOOK_NS, and a timer makes up for a look that was left out.
 *
 * A port whose engine does not stop fails the controller: reset (10.4.3), which stops everything; when
 * that is not confirmed either, it is cut off the bus. Its disks are out of use for good.
 *
 * Missing on purpose: port multipliers, enclosure management, coalescing, power management of links,
 * one message per port.
 */
#include "ahci/port.h"

#include <stdio.h>

#define MS        1000000ull
#define LOOK_NS   (10 * MS)
#define RESET_NS  (1000 * MS) /* 10.4.3 */
#define BIOS_NS   (25 * MS)   /* 10.6.3 */
#define BUSY_NS   (2000 * MS)
#define SETTLE_NS (MS / 5)

static bool co_wait(struct ahci_hba *h, unsigned reg, uint32_t mask, uint64_t ns)
{
    uint64_t deadline = board_clock_ns() + hba_bound(h, ns);
    while (hba_read(h, reg) & mask) {
        if (board_clock_ns() >= deadline)
            return false;
        co_sleep_ns(hba_bound(h, SETTLE_NS));
    }
    return true;
}

/* ---- Taking it over -------------------------------------------------------------------------- */

static void co_hand_off(struct ahci_hba *h)
{
    if (!(hba_read(h, AHCI_CAP2) & CAP2_BOH) || !(hba_read(h, AHCI_BOHC) & BOHC_BOS))
        return;
    hba_write(h, AHCI_BOHC, hba_read(h, AHCI_BOHC) | BOHC_OOS);
    if (co_wait(h, AHCI_BOHC, BOHC_BOS, BIOS_NS))
        return;
    if (!(hba_read(h, AHCI_BOHC) & BOHC_BB) || !co_wait(h, AHCI_BOHC, BOHC_BOS, BUSY_NS))
        log_line("ahci", "%s: firmware does not let go of it; going on", h->name);
}

static int refuse(const struct ahci_hba *h, const char *what, uint32_t value)
{
    log_line("ahci", "%s: %s (%08x)", h->name, what, value);
    return SR_EINVAL;
}

static int read_capabilities(struct ahci_hba *h)
{
    uint32_t cap = hba_read(h, AHCI_CAP), pi = hba_read(h, AHCI_PI), vs = hba_read(h, AHCI_VS);
    h->cap = cap;
    h->implemented = pi;
    if (cap == UINT32_MAX || vs == UINT32_MAX)
        return refuse(h, "it does not answer", vs);
    if (vs >> 16 > 1 || vs < 0x905)
        return refuse(h, "no version that exists", vs);
    if (!pi || (unsigned)__builtin_popcount(pi) > CAP_NP(cap))
        return refuse(h, "its ports make no sense", pi);
    unsigned last = log2_floor(pi);
    if (!range_ok(AHCI_PORTS + last * AHCI_PORT_SIZE, AHCI_PORT_SIZE, h->regs))
        return refuse(h, "a port without registers", pi);
    h->slots = CAP_NCS(cap);
    h->ncq = cap & CAP_SNCQ;
    h->dma64 = cap & CAP_S64A;
    return 0;
}

/* ---- Interrupts ------------------------------------------------------------------------------ */

static struct ahci_hba *hba_of(struct poller *p)
{
    return container_of(p, struct ahci_hba, poller);
}

static bool poll(struct poller *poller)
{
    struct ahci_hba *h = hba_of(poller);
    bool some = false;
    for (uint32_t left = h->active; left; left &= left - 1)
        some |= ahci_poll_port(h->port[__builtin_ctz(left)]);
    return some;
}

static void arm(struct poller *poller)
{
    struct ahci_hba *h = hba_of(poller);
    for (uint32_t left = h->active; left; left &= left - 1)
        ahci_arm_port(h->port[__builtin_ctz(left)]);
}

/* A port that says something while nothing is in flight: hot plug, or nothing that matters. */
static void look_at(struct ahci_port *p)
{
    uint32_t status = port_read(p, PX_IS);
    if (p->running || p->state == PORT_BUSY)
        return;
    if (status & PIS_PLUG) {
        ahci_recover(p, WHY_PLUG);
        return;
    }
    port_write(p, PX_IS, status);
    hba_write(p->hba, AHCI_IS, 1u << p->index);
}

static void look(struct ahci_hba *h)
{
    h->looked_ns = board_clock_ns();
    timer_cancel(&h->look);
    uint32_t said = hba_read(h, AHCI_IS) & h->implemented & ~h->active;
    for (; said; said &= said - 1)
        if (h->port[__builtin_ctz(said)])
            look_at(h->port[__builtin_ctz(said)]);
}

static void look_due(struct timer *t)
{
    look(container_of(t, struct ahci_hba, look));
}

static void disarm(struct poller *poller)
{
    struct ahci_hba *h = hba_of(poller);
    if (h->broken)
        return;
    if (board_clock_ns() - h->looked_ns >= hba_bound(h, LOOK_NS))
        look(h);
    else if (!h->look.pending)
        timer_set(&h->look, h->looked_ns + hba_bound(h, LOOK_NS));
}

/* ---- Failure --------------------------------------------------------------------------------- */

void co_ahci_hba_fail(struct ahci_hba *h)
{
    if (h->broken)
        return;
    h->broken = true;
    log_line("ahci", "%s: a port does not stop: the controller is out of use", h->name);
    hba_write(h, AHCI_GHC, hba_read(h, AHCI_GHC) | GHC_HR);
    if (!co_wait(h, AHCI_GHC, GHC_HR, RESET_NS)) {
        log_line("ahci", "%s: does not reset", h->name);
        h->bus->cut(h);
    }
    for (unsigned i = 0; i < AHCI_MAX_PORTS; i++)
        if (h->port[i] && h->port[i]->state == PORT_ONLINE)
            ahci_recover(h->port[i], WHY_STOP);
}

/* ---- Attach and detach ----------------------------------------------------------------------- */

struct probe {
    struct co_start start;
    struct ahci_port *port;
    struct co_join *join;
};

static void co_probe_one(void *arg)
{
    struct probe *b = arg;
    co_ahci_port_probe(b->port);
    co_join_done(b->join, 0);
}

static int co_probe_ports(struct ahci_hba *h)
{
    struct co_join join;
    struct probe *probe = sr_calloc(AHCI_MAX_PORTS, sizeof(*probe));
    if (!probe)
        return SR_ENOMEM;
    co_join_init(&join);
    for (unsigned i = 0; i < AHCI_MAX_PORTS; i++) {
        if (!h->port[i])
            continue;
        probe[i] = (struct probe){.port = h->port[i], .join = &join};
        co_join_add(&join);
        co_start_child(&probe[i].start, co_probe_one, &probe[i]);
    }
    int rc = co_join_wait(&join);
    sr_free(probe);
    return rc;
}

static int make_ports(struct ahci_hba *h)
{
    for (unsigned i = 0; i < AHCI_MAX_PORTS; i++) {
        int rc = h->implemented >> i & 1 ? co_ahci_port_make(h, i) : 0;
        if (rc)
            return rc;
    }
    return 0;
}

static void announce(struct ahci_hba *h)
{
    unsigned used = 0;
    for (unsigned i = 0; i < AHCI_MAX_PORTS; i++)
        used += h->port[i] && h->port[i]->state == PORT_ONLINE;
    log_line("ahci", "%s: %d ports, %u in use, %u slots%s%s", h->name,
             __builtin_popcount(h->implemented), used, h->slots, h->ncq ? ", NCQ" : "",
             h->dma64 ? "" : ", 32-bit");
    for (unsigned i = 0; i < AHCI_MAX_PORTS; i++)
        if (h->port[i] && h->port[i]->state == PORT_ONLINE)
            ahci_port_announce(h->port[i]);
}

static void co_free_ports(struct ahci_hba *h)
{
    for (unsigned i = 0; i < AHCI_MAX_PORTS; i++) {
        struct ahci_port *p = h->port[i];
        if (!p)
            continue;
        co_ahci_port_free(p);
        timer_cancel(&p->watchdog);
        ahci_port_withdraw(p);
        h->port[i] = NULL;
        sr_free(p);
    }
}

int co_ahci_attach(struct ahci_hba *h)
{
    timer_init(&h->look, look_due);
    co_hand_off(h);
    hba_write(h, AHCI_GHC, (hba_read(h, AHCI_GHC) | GHC_AE) & ~GHC_HR);
    int rc = read_capabilities(h);
    if (!rc)
        rc = make_ports(h);
    if (!rc)
        rc = co_probe_ports(h);
    if (rc) {
        co_free_ports(h);
        return rc;
    }
    hba_write(h, AHCI_GHC, GHC_AE | GHC_IE);
    h->poller = (struct poller){.poll = poll, .arm = arm, .disarm = disarm};
    poller_add(&h->poller);
    announce(h);
    return 0;
}

void co_ahci_detach(struct ahci_hba *h)
{
    poller_remove(&h->poller);
    timer_cancel(&h->look);
    hba_write(h, AHCI_GHC, GHC_AE);
    for (unsigned i = 0; i < AHCI_MAX_PORTS; i++)
        if (h->port[i])
            ahci_recover(h->port[i], WHY_STOP);
    for (unsigned i = 0; i < AHCI_MAX_PORTS; i++)
        if (h->port[i])
            co_ahci_settle(h->port[i]);
    co_free_ports(h);
    timer_cancel(&h->look);
}
