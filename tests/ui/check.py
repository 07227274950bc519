#!/usr/bin/env python3
"""Drives the page at /ui of a running server in a real browser, as a person would.

    tests/ui/check.py http://127.0.0.1:7700 [--shots DIR] [--key KEY] [--text "bluetooth speaker"]

Needs the Python package `playwright` (its own browsers are not needed) and Chromium as the system has it; without them it
says so and exits 0 with "skipped". Writes screenshots to --shots. It pauses one campaign and resumes it, and measures recall, and
switches versions and splits traffic only where the server offers another one, and back: run it against a server that may be touched.
"""

import argparse
import json
import os
import re
import shutil
import sys
import traceback
import urllib.error
import urllib.request

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_MS = 15_000
# Statuses that the page asks for on purpose and shows a person: the browser logs each.
EXPECTED = re.compile(r"status of (404|422)")


class Page:
    """The page under test, with what every check needs."""

    def __init__(self, page, url, options):
        self.page, self.url, self.options = page, url, options
        self.errors = []
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self.heard)

    def heard(self, message):
        if message.type == "error" and not EXPECTED.search(message.text):
            self.errors.append(message.text)

    def shot(self, name):
        if self.options.shots:
            self.page.screenshot(path=os.path.join(self.options.shots, f"{name}.png"))

    def text(self, selector):
        return self.page.inner_text(selector)

    def sees(self, selector, words):
        """Waits until the element shows `words`; fails with what it shows instead."""
        try:
            self.page.locator(selector, has_text=words).first.wait_for()
        except Exception as error:
            shown = self.page.locator(selector).all_inner_texts()
            raise AssertionError(f"{selector} should show {words!r}, shows {shown!r}") from error

    def search(self, text):
        # A page of its own: nothing of the check before is left.
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/ui#search")
        self.page.fill("#ask", text)
        self.page.press("#ask", "Enter")
        self.page.wait_for_selector(".hit")

    def keys(self):
        return [int(hit.get_attribute("data-key")) for hit in self.page.query_selector_all(".hit")]

    def answer_to(self, action):
        """Does `action` and returns the search's answer that it led to."""
        with self.page.expect_response(lambda reply: reply.url.endswith("/search")) as reply:
            action()
        reply.value.finished()
        self.page.wait_for_timeout(100)
        return reply.value.json()


def opens(t):
    reply = t.page.goto(f"{t.url}/ui")
    policy = reply.headers.get("content-security-policy", "")
    assert "script-src 'self'" in policy and "unsafe" not in policy, f"a strict policy, not {policy!r}"
    t.sees("#collection", "ads")
    t.sees(".welcome", "Try one")
    t.shot("1-open")


def keyboard_searches(t):
    t.page.keyboard.press("/")
    assert t.page.evaluate("document.activeElement.id") == "ask", "/ puts the cursor into the search field"
    t.page.keyboard.type(t.options.text[:4])
    t.sees("#offers", t.options.text)
    t.page.fill("#ask", t.options.text)
    t.page.keyboard.press("Enter")
    t.page.wait_for_selector(".hit")
    t.sees("#summary", "hits in")
    t.sees(".hit", "Relevance")
    t.sees(".timing", "scan")
    t.shot("2-search")


def hash_is_shared(t):
    keys = t.keys()
    other = t.page.context.new_page()
    if t.options.key:
        other.add_init_script(f"sessionStorage.setItem('bigrain-api-key', {json.dumps(t.options.key)})")
    other.goto(t.page.url)
    other.wait_for_selector(".hit")
    assert [int(hit.get_attribute("data-key")) for hit in other.query_selector_all(".hit")] == keys
    other.close()


def ranks_by_ecpm(t):
    answer = t.answer_to(lambda: t.page.check("input[name=rank][value=ecpm]", force=True))
    ecpm = [hit.get("ecpm_micros") or 0 for hit in answer["hits"]]
    assert ecpm == sorted(ecpm, reverse=True), f"descending eCPM, not {ecpm}"
    assert t.page.is_visible("#alpha")
    t.answer_to(lambda: t.page.check("input[name=rank][value=relevance]", force=True))


def filters(t):
    t.search(t.options.text)
    fact = t.page.query_selector(".hit .facts .fact")
    if not fact:
        return "no attribute that a filter can test"
    value = fact.inner_text()
    answer = t.answer_to(fact.click)
    t.sees("#chips", value)
    assert all(value in json.dumps(hit["fields"], ensure_ascii=False) for hit in answer["hits"]), f"all hits have {value!r}"
    t.shot("3-filter")
    t.answer_to(lambda: t.page.click("#chips .remove"))
    assert not t.page.query_selector("#chips .chip")


def explains(t):
    t.search(t.options.text)
    t.page.click(".hit .title >> nth=0")
    t.sees("#drawer .verdict", "In the answer, at place 1.")
    t.sees("#drawer .steps", "verify")
    t.shot("4-explain")
    t.page.keyboard.press("Escape")
    assert not t.page.is_visible("#drawer"), "Escape closes the drawer"


def why_not(t):
    t.search(t.options.text)
    # The last of many hits is lost when the answer is short.
    t.answer_to(lambda: t.page.fill("#limit", "50"))
    last = t.keys()[-1]
    t.answer_to(lambda: t.page.fill("#limit", "5"))
    t.page.fill("#why-not-key", str(last))
    t.page.click("#why-not button")
    t.sees("#drawer .verdict", "Not in the answer")
    t.sees("#drawer .steps .failed", "rank")
    t.shot("5-why-not")
    t.page.keyboard.press("Escape")


def shows_problems(t):
    t.search(t.options.text)
    t.page.fill("#nprobe", "0")
    t.sees("#problem", "nprobe")
    t.sees("#problem", "Remedy")
    assert t.page.get_attribute("#nprobe", "aria-invalid") == "true", "the field is marked"
    t.shot("6-problem")
    t.answer_to(lambda: t.page.fill("#nprobe", ""))
    assert not t.page.inner_text("#problem")


def escapes(t):
    t.search(t.options.text)
    t.page.fill("#ask", "<img src=x onerror=alert(1)>")
    t.page.press("#ask", "Enter")
    # A server without an encoder names the text in a problem, one with an encoder searches for it.
    seen = "document.querySelector('#problem').textContent.includes('<img src=x')"
    t.page.wait_for_function(f"() => {seen} || document.querySelector('#summary').textContent.includes('hits in')")
    assert not t.page.query_selector("img[src=x]"), "data is never parsed as HTML"


def pauses(t):
    t.search(t.options.text)
    first = t.keys()[0]
    t.page.click(".hit .title >> nth=0")
    t.page.wait_for_selector("#drawer .entity")
    row = t.page.query_selector("#drawer [data-entity^=campaign]")
    if not row:
        t.page.keyboard.press("Escape")
        return "the ad belongs to no campaign"
    entity = row.get_attribute("data-entity")
    answer = t.answer_to(lambda: t.page.click(f"#drawer [data-entity='{entity}'] button:text-is('Pause')"))
    try:
        t.sees("#toasts", "paused")
        t.sees(f"#drawer [data-entity='{entity}']", "paused")
        t.sees("#drawer .verdict", "eligibility")
        assert first not in [hit["key"] for hit in answer["hits"]], "the next answer is without it"
        t.shot("7-paused")
    finally:
        t.page.click(f"#drawer [data-entity='{entity}'] button:text-is('Resume')")
    t.sees(f"#drawer [data-entity='{entity}']", "active")
    t.page.wait_for_timeout(500)
    assert first in t.keys(), "resumed, it is back"
    t.page.keyboard.press("Escape")


def live(t):
    t.page.click("nav [data-view=live]")
    t.sees("#view-live", "Recall")
    t.sees("#view-live", "Tail latency")
    t.page.wait_for_selector(".chart path")
    t.shot("8-live")


def versions(t):
    t.page.click("nav [data-view=versions]")
    t.page.wait_for_selector(".versions tbody tr")
    active = t.text(".versions tr:has(.badge.active) th")
    t.shot("9-versions")
    other = t.page.query_selector(".versions tr:has(.badge.staged) button, .versions tr:has(.badge.previous) button")
    if not other:
        return "only one version"
    name = other.get_attribute("aria-label").removeprefix("Activate ")
    other.click()
    t.sees("#dialog", f"Activate {name}?")
    t.shot("9-versions-confirm")
    t.page.click("#dialog button.primary")
    t.sees(".versions tr:has(.badge.active)", name)
    t.page.click(f"button:text-is('Roll back to {active}')")
    t.page.click("#dialog button.primary")
    t.sees(".versions tr:has(.badge.active)", active)


def measures(t):
    t.page.click("nav [data-view=versions]")
    t.page.click("button:text-is('Measure recall@10')")
    t.sees("#toasts", "Recall@10")
    assert not t.text("#problem"), t.text("#problem")
    t.shot("10-measured")


def splits(t):
    t.page.click("nav [data-view=versions]")
    t.page.wait_for_selector(".versions tbody tr")
    if not t.page.query_selector("#split-share"):
        return "only one version"

    def apply(share, button, shown):
        t.page.fill("#split-share", share)
        t.page.click(".split button[type=submit]")
        t.page.click(f"#dialog button:text-is('{button}')")
        t.sees(".split", shown)
        assert not t.text("#problem"), t.text("#problem")

    apply("25", "Split", "Now 25 % of requests")
    t.shot("11-split")
    assert t.page.get_attribute("#split-share", "max") == "99", "all requests are for activating"
    apply("0", "End", "Now all requests go to the active version")


def narrow(t):
    t.page.set_viewport_size({"width": 390, "height": 844})
    t.search(t.options.text)
    wide = t.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"nothing sticks out, but {wide} pixels do"
    t.shot("12-narrow")


CHECKS = [
    opens, keyboard_searches, hash_is_shared, ranks_by_ecpm, filters, explains, why_not, shows_problems, escapes, pauses,
    live, versions, measures, splits, narrow,
]


def browser_path():
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(0)


def run(playwright, options):
    """Runs the checks in order; returns how many failed."""
    # Inside a container root has no user namespaces, which the sandbox needs.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser = playwright.chromium.launch(executable_path=browser_path(), args=arguments)
    page = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme=options.scheme).new_page()
    if options.key:
        page.add_init_script(f"sessionStorage.setItem('bigrain-api-key', {json.dumps(options.key)})")
    t = Page(page, options.url.rstrip("/"), options)
    failed = 0
    for check in CHECKS:
        try:
            note = check(t)
            assert not t.errors, f"errors in the browser's console: {t.errors}"
            print(f"{check.__name__}: {'skipped: ' + note if note else 'ok'}")
        except Exception:
            failed += 1
            t.errors.clear()
            print(f"{check.__name__}: FAILED\n{traceback.format_exc(limit=3)}")
            t.shot(f"failed-{check.__name__}")
    browser.close()
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="where the server listens, such as http://127.0.0.1:7700")
    parser.add_argument("--shots", metavar="DIR", help="folder for screenshots")
    parser.add_argument("--key", help="API key (with the scopes admin and write)")
    parser.add_argument("--text", default="bluetooth speaker", help="a known query with at least 50 hits")
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    options = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip("the Python package playwright is not installed (pip install playwright)")
    if not browser_path():
        skip(f"none of {', '.join(BROWSERS)} is installed")
    try:
        urllib.request.urlopen(f"{options.url.rstrip('/')}/livez", timeout=10)
    except urllib.error.HTTPError:
        pass  # It answers: the checks will tell what is wrong.
    except OSError as error:
        sys.exit(f"{options.url} does not answer: {error}")
    if options.shots:
        os.makedirs(options.shots, exist_ok=True)
    with sync_playwright() as playwright:
        failed = run(playwright, options)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
