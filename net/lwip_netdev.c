/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * --netdev, addresses, DHCP.
 *
 *     --netdev driver=virtio-net[,index=N],ip=dhcp|ADDR/LEN[,gateway=A][,ip6=auto|off|ADDR/LEN][,mtu=N]
 *
 * The option gives a card to lwIP at once, so that DHCP is under way while the rest of the command
 * line is worked on; with no option at all the first card, if there is one, gets DHCP when the start
 * hooks run. Only "ready:" waits for the address, and at most DHCP_WAIT_NS: listeners and the monitor
 * are up before, and serve whatever the network does. An address that comes later is announced then.
 *
 * Nobody asks whether an address is taken (a second or more with ARP or neighbour discovery): who
 * starts this machine gives out addresses. lwIP sends a gratuitous ARP.
 */
#include "net/lwip_net.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/command.h"

#include "lwip/dhcp.h"
#include "lwip/ethip6.h"
#include "lwip/nd6.h"
#include "lwip/prot/dhcp.h"

#define DHCP_WAIT_NS (10ull * 1000000000)
#define MTU_MIN      1280 /* IPv6's */
#define MTU_MAX      9000 /* TCP_MSS + 40 */

struct addresses {
    bool dhcp, autoconf, has4, has6, off6;
    ip4_addr_t ip, mask, gateway;
    ip6_addr_t ip6, gateway6;
    bool has_gateway, has_gateway6;
};

/* ---- Text to addresses ---- */

/* "ADDR/LEN" */
static int parse_prefix(const char *text, const char *key, ip_addr_t *ip, unsigned *len,
                        struct error *err)
{
    char host[64];
    const char *slash = strchr(text, '/');
    char *end = NULL;
    unsigned long n = slash ? strtoul(slash + 1, &end, 10) : 0;
    if (slash && (size_t)(slash - text) < sizeof(host) && end != slash + 1 && !*end) {
        memcpy(host, text, (size_t)(slash - text));
        host[slash - text] = 0;
        if (ipaddr_aton(host, ip) && n && n <= (IP_IS_V6(ip) ? 128 : 32)) {
            *len = (unsigned)n;
            return 0;
        }
    }
    return error_set(err, SR_EINVAL, "Parameter '%s' expects an address and prefix length", key);
}

static int parse_ip4(const struct net_config *c, struct addresses *a, struct error *err)
{
    ip_addr_t ip;
    unsigned len;
    if (!c->ip)
        return 0;
    a->dhcp = !strcmp(c->ip, "dhcp");
    if (a->dhcp)
        return 0;
    if (parse_prefix(c->ip, "ip", &ip, &len, err))
        return SR_EINVAL;
    if (!IP_IS_V4_VAL(ip))
        return error_set(err, SR_EINVAL, "Parameter 'ip' expects an IPv4 address");
    a->has4 = true;
    a->ip = *ip_2_ip4(&ip);
    a->mask.addr = lwip_htonl((u32_t)(0xffffffffull << (32 - len)));
    return 0;
}

static int parse_ip6(const struct net_config *c, struct addresses *a, struct error *err)
{
    ip_addr_t ip;
    unsigned len;
    a->off6 = c->ip6 && !strcmp(c->ip6, "off");
    a->autoconf = !c->ip6 || !strcmp(c->ip6, "auto");
    if (a->off6 || a->autoconf)
        return 0;
    if (parse_prefix(c->ip6, "ip6", &ip, &len, err))
        return SR_EINVAL;
    if (!IP_IS_V6_VAL(ip) || len != 64)
        return error_set(err, SR_EINVAL, "Parameter 'ip6' expects an IPv6 address with /64");
    a->has6 = true;
    a->ip6 = *ip_2_ip6(&ip);
    return 0;
}

static int parse_gateway(const struct net_config *c, struct addresses *a, struct error *err)
{
    ip_addr_t ip;
    if (!c->gateway)
        return 0;
    if (!ipaddr_aton(c->gateway, &ip) || !IP_IS_V4_VAL(ip))
        return error_set(err, SR_EINVAL, "Parameter 'gateway' expects an IPv4 address");
    a->has_gateway = true;
    a->gateway = *ip_2_ip4(&ip);
    return 0;
}

/* ---- An interface comes up ---- */

static void announce(struct netport *port)
{
    const struct netif *n = &port->netif;
    const uint8_t *m = port->nic->mac;
    char ip[64] = "", gateway[40] = "", ip6[64] = "";
    if (!ip4_addr_isany(netif_ip4_addr(n)))
        snprintf(ip, sizeof(ip), " ip %s", ip4addr_ntoa(netif_ip4_addr(n)));
    if (!ip4_addr_isany(netif_ip4_gw(n)))
        snprintf(gateway, sizeof(gateway), " gateway %s", ip4addr_ntoa(netif_ip4_gw(n)));
    for (int i = 1; i < LWIP_IPV6_NUM_ADDRESSES; i++)
        if (ip6_addr_isvalid(netif_ip6_addr_state(n, i)))
            snprintf(ip6, sizeof(ip6), " ip6 %s", ip6addr_ntoa(netif_ip6_addr(n, i)));
    for (char *c = ip6; *c; c++)
        *c = (char)tolower(*c); /* RFC 5952 */
    char line[sizeof(port->announced)];
    snprintf(line, sizeof(line), "net %u: mac %02x:%02x:%02x:%02x:%02x:%02x%s%s%s",
             port->nic->index, m[0], m[1], m[2], m[3], m[4], m[5], ip, gateway, ip6);
    if (!strcmp(line, port->announced))
        return;
    strcpy(port->announced, line);
    log_plain("%s", line);
}

static void status_changed(struct netif *n)
{
    struct netport *port = n->state;
    if (!ip4_addr_isany(netif_ip4_addr(n)))
        announce(port);
}

static void start_ip6(struct netif *n, const struct addresses *a)
{
    s8_t i;
    if (a->off6)
        return;
    netif_create_ip6_linklocal_address(n, 1);
    netif_set_ip6_autoconfig_enabled(n, a->autoconf);
    if (a->has6 && netif_add_ip6_address(n, &a->ip6, &i) == ERR_OK)
        netif_ip6_addr_set_state(n, i, IP6_ADDR_PREFERRED);
}

static void start_ip4(struct netif *n, const struct addresses *a)
{
    netif_set_status_callback(n, status_changed);
    if (a->has4)
        netif_set_addr(n, &a->ip, &a->mask, a->has_gateway ? &a->gateway : NULL);
    if (!a->dhcp || dhcp_start(n) != ERR_OK)
        return;
    netif_dhcp_data(n)->request_timeout = 1; /* a lost first packet costs half a second, not two */
}

int net_attach(struct nic *nic, const struct net_config *c, struct error *err)
{
    struct addresses a = {0};
    struct netport *port;
    if (nic->net)
        return error_set(err, SR_EBUSY, "network card %u is in use", nic->index);
    if (parse_ip4(c, &a, err) || parse_ip6(c, &a, err) || parse_gateway(c, &a, err))
        return SR_EINVAL;
    if (c->mtu && (c->mtu < MTU_MIN || c->mtu > MIN(nic->mtu ? nic->mtu : MTU_MAX, MTU_MAX)))
        return error_set(err, SR_EINVAL, "Parameter 'mtu' expects %u to %u", MTU_MIN,
                         MIN(nic->mtu ? nic->mtu : MTU_MAX, MTU_MAX));
    int rc = netport_open(nic, c->mtu ? c->mtu : MIN(nic->mtu, MTU_MAX), &port);
    if (rc)
        return error_set(err, rc, "%s", sr_strerror(rc));
    port->dhcp = a.dhcp;
    netif_set_hostname(&port->netif, "strongroom");
    netif_set_up(&port->netif);
    start_ip6(&port->netif, &a);
    start_ip4(&port->netif, &a);
    if (!port->announced[0] && !a.dhcp)
        announce(port);
    net_timers_changed();
    return 0;
}

bool net_configured(void)
{
    for (unsigned i = 0; i < net_port_count; i++)
        if (net_ports[i]->dhcp && !dhcp_supplied_address(&net_ports[i]->netif))
            return false;
    return true;
}

/* ---- The option ---- */

struct netdev_options {
    const char *driver;
    int64_t index;
    const char *ip, *gateway, *ip6;
    bool has_mtu;
    int64_t mtu;
};
static const struct field netdev_fields[] = {
    FIELD_REQ(struct netdev_options, driver, "driver", &type_str, "virtio-net"),
    FIELD_DEF(struct netdev_options, index, "index", &type_uint32, "0",
              "Which card, in order of discovery"),
    FIELD_OPTS(struct netdev_options, ip, "ip", &type_str, "dhcp, or an address as ADDR/LEN"),
    FIELD_OPTS(struct netdev_options, gateway, "gateway", &type_str, "Default router"),
    FIELD_OPTS(struct netdev_options, ip6, "ip6", &type_str, "auto, off, or ADDR/64"),
    FIELD_OPT(struct netdev_options, mtu, "mtu", &type_uint16, "Less than what the card tells"),
    {0},
};
static const struct type type_netdev =
    TYPE_STRUCT_OF("NetdevOptions", struct netdev_options, netdev_fields);

static uint64_t started_ns;

static int co_netdev_apply(const void *opts, const struct value *raw, bool text, struct error *err)
{
    (void)raw, (void)text;
    const struct netdev_options *o = opts;
    if (strcmp(o->driver, "virtio-net"))
        return error_set(err, SR_EINVAL, "Parameter 'driver' does not accept value '%s'",
                         o->driver);
    struct nic *nic = nic_find((unsigned)o->index);
    if (!nic)
        return error_set(err, SR_ENODEV, "There is no network card with index %u",
                         (unsigned)o->index);
    struct net_config c = {.ip = o->ip, .gateway = o->gateway, .ip6 = o->ip6};
    if (o->has_mtu)
        c.mtu = (unsigned)o->mtu;
    started_ns = board_clock_ns();
    return net_attach(nic, &c, err);
}
static const struct option_def netdev_option = {
    .name = "netdev",
    .type = &type_netdev,
    .implied = "driver",
    .co_apply = co_netdev_apply,
    .doc = "Use a network card",
};
REGISTER(option, netdev_option);

/* ---- Start ---- */

static int co_default_netdev(struct error *err)
{
    struct nic *nic = nic_find(0);
    if (net_port_count || !nic)
        return 0;
    started_ns = board_clock_ns();
    return net_attach(nic, &(struct net_config){.ip = "dhcp"}, err);
}
static const struct start_hook netdev_start = {
    .name = "netdev",
    .order = START_NETWORK,
    .co_run = co_default_netdev,
};
REGISTER(start_hook, netdev_start);

static int co_wait_for_address(struct error *err)
{
    (void)err;
    uint64_t deadline = started_ns + DHCP_WAIT_NS;
    while (!net_configured() && loop_now() < deadline)
        co_sleep_ns(1000000);
    if (!net_configured())
        log_line("net", "no address by DHCP yet");
    return 0;
}
static const struct start_hook netdev_ready = {
    .name = "netdev-address",
    .order = START_LISTEN + 50,
    .co_run = co_wait_for_address,
};
REGISTER(start_hook, netdev_ready);
