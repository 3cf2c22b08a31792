import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// Reports opens and leads to firstopen. Make one, and keep it as long as the app runs.
public actor Firstopen {
    private struct Open: Encodable {
        var deepLink: String?
        var clipboard: String?
        var dubDomain: String?
        var installId: String?
        var installedAt: Int?
        var platform: String?
        var appVersion: String?
        var budgetMs: UInt64
        var consent: Bool?
    }

    private struct Progress: Decodable {
        let pending: Bool
        let retryAfterMs: UInt64?
    }

    private struct LeadBody: Encodable {
        let lead: Lead
        let installId: String

        private enum CodingKeys: CodingKey { case installId }

        func encode(to encoder: any Encoder) throws {
            try lead.encode(to: encoder)
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(installId, forKey: .installId)
        }
    }

    private static let networkMs: UInt64 = 300  // in addition to the budget
    private static let linkMs: UInt64 = 100  // SwiftUI calls onOpenURL a moment after the first view appears
    private static let lateMs: UInt64 = 60_000  // firstopen looks for a late click for some 30 s
    private static let leadTimeoutMs: UInt64 = 10_000
    private static let leadWaitsMs: [UInt64] = [1_000, 4_000, 15_000, 60_000]

    private let baseURL: URL
    private let publishableKey: String
    private let domains: [String]
    private let home: Landing
    private let budgetMs: UInt64
    private let consent: Bool?
    private let mayPaste: (@Sendable () async -> Bool)?
    private let onError: @Sendable (any Error) -> Void
    private let onLate: @Sendable (Landing) -> Void
    private let phone: Phone
    private let session: URLSession
    private let sleep: @Sendable (UInt64) async throws -> Void

    private var started: Task<Landing, Never>?
    private var waitsForLink = true
    private var launchLink: URL?
    private var generation = 0  // counts opens and moves: a late answer of an earlier one is dropped

    /// - Parameters:
    ///   - domains: the app's short link domains, as they stand in a URL; the first is sent as `dubDomain`
    ///   - home: the screen to show when firstopen has no answer
    ///   - budgetMs: how long firstopen may take to answer, 100 to 10,000 ms
    ///   - consent: for `ip_matching = "consented"`: whether the person agreed to be matched by IP address
    ///   - mayPaste: asks the person; called on a first launch only, and only if the clipboard may hold a URL.
    ///     Without it the clipboard is never read
    ///   - onError: receives errors, to log them; the launch goes on
    ///   - onLate: called at most once per open, if its final answer differs from the one that `start` or `opened`
    ///     returned. Not called after another open or after `movedOn`, so it is safe to navigate here
    public init(
        baseURL: URL, publishableKey: String, domains: [String], home: String, budgetMs: UInt64 = 1500,
        consent: Bool? = nil, mayPaste: (@Sendable () async -> Bool)? = nil,
        onError: @escaping @Sendable (any Error) -> Void, onLate: @escaping @Sendable (Landing) -> Void
    ) {
        self.init(
            baseURL: baseURL, publishableKey: publishableKey, domains: domains, home: home, budgetMs: budgetMs,
            consent: consent, mayPaste: mayPaste, onError: onError, onLate: onLate, phone: .own, session: .shared,
            sleep: { try await Task.sleep(nanoseconds: $0 * 1_000_000) })
    }

    init(
        baseURL: URL, publishableKey: String, domains: [String], home: String, budgetMs: UInt64, consent: Bool?,
        mayPaste: (@Sendable () async -> Bool)?, onError: @escaping @Sendable (any Error) -> Void,
        onLate: @escaping @Sendable (Landing) -> Void, phone: Phone, session: URLSession,
        sleep: @escaping @Sendable (UInt64) async throws -> Void
    ) {
        self.baseURL = baseURL
        self.publishableKey = publishableKey
        self.domains = domains
        self.home = Landing(
            openId: nil, clickId: nil, route: .init(screen: home, params: [:], url: nil, reason: nil),
            gate: nil)
        self.budgetMs = budgetMs
        self.consent = consent
        self.mayPaste = mayPaste
        self.onError = onError
        self.onLate = onLate
        self.phone = phone
        self.session = session
        self.sleep = sleep
    }

    /// Reports this cold start: the first launch always, later launches only with a link.
    ///
    /// Repeated calls in one process return the first answer, so a view that appears twice is harmless. Without
    /// `deepLink`, a link that `opened` receives until 100 ms after this call is the cold start's.
    public func start(deepLink: URL? = nil) async -> Landing {
        if let started { return await started.value }
        let task = Task { await coldStart(deepLink) }
        started = task
        return await task.value
    }

    /// Reports a link that opened the running app (`onOpenURL`, `scene(_:continue:)`).
    ///
    /// Returns nil if there is nothing to do: firstopen did not answer, or `start` reports this link.
    public func opened(_ url: URL) async -> Landing? {
        if waitsForLink {
            launchLink = url
            return nil
        }
        return await open(url)
    }

    /// Tells that the person has navigated: an answer that arrives later must not move them.
    public func movedOn() {
        generation += 1
    }

    /// Returns this install's id, for your backend to report leads with.
    public func installId() throws -> String {
        let file = try phone.folder().appendingPathComponent("install-id")
        if FileManager.default.fileExists(atPath: file.path) { return try String(contentsOf: file, encoding: .utf8) }
        let fresh = UUID().uuidString
        try fresh.write(to: file, atomically: true, encoding: .utf8)
        return fresh
    }

    /// Reports a lead of this install; the app's settings must say `leads = "client"`.
    ///
    /// Without a network, on 429 and on 5xx it tries again for some 80 s, then throws. To call it again later is safe:
    /// the same `customerExternalId` and `eventName` are one lead for 7 days.
    public func lead(_ lead: Lead) async throws -> LeadAnswer {
        let body = try JSONEncoder().encode(LeadBody(lead: lead, installId: installId()))
        for wait in Self.leadWaitsMs {
            do {
                return try await sendLead(body)
            } catch {
                guard Self.isTemporary(error) else { throw error }
                onError(error)
                try await sleep((error as? FirstopenError)?.retryAfterMs ?? wait)
            }
        }
        return try await sendLead(body)
    }

    private func sendLead(_ body: Data) async throws -> LeadAnswer {
        try JSONDecoder().decode(LeadAnswer.self, from: await call("v1/leads", Self.leadTimeoutMs, body))
    }

    private func coldStart(_ deepLink: URL?) async -> Landing {
        if deepLink == nil && launchLink == nil { try? await sleep(Self.linkMs) }
        waitsForLink = false
        return await open(deepLink ?? launchLink) ?? home
    }

    private func open(_ deepLink: URL?) async -> Landing? {
        generation += 1
        let turn = generation
        do {
            let answered = attempt { try phone.folder().appendingPathComponent("answered") }
            let first = answered.map { !FileManager.default.fileExists(atPath: $0.path) } ?? false
            guard first || deepLink != nil else { return nil }
            var open = Open(dubDomain: domains.first, budgetMs: budgetMs, consent: consent)
            open.deepLink = deepLink?.absoluteString
            open.installId = attempt { try installId() }
            open.installedAt = attempt { try phone.installedAt() }
            open.platform = phone.platform
            open.appVersion = phone.appVersion
            if first && deepLink == nil { open.clipboard = await clipboard() }
            let answer = try await call("v1/opens", budgetMs + Self.networkMs, JSONEncoder().encode(open))
            let landing = try JSONDecoder().decode(Landing.self, from: answer)
            if first, let answered { attempt { try Data().write(to: answered) } }
            let progress = try JSONDecoder().decode(Progress.self, from: answer)
            if progress.pending { Task { await settle(landing, progress, turn) } }
            return landing
        } catch {
            onError(error)
            return nil  // the next launch reports a first open again, with the same install id: that is safe
        }
    }

    /// Asks for a pending answer until it is final.
    private func settle(_ early: Landing, _ pending: Progress, _ turn: Int) async {
        guard let openId = early.openId else { return }
        var late = early
        var progress = pending
        var wait = pending.retryAfterMs ?? 1_000
        var waited: UInt64 = 0
        while progress.pending && waited + wait <= Self.lateMs {
            do {
                try await sleep(wait)
                waited += wait
                guard generation == turn else { return }
                let answer = try await call("v1/opens/\(openId)", budgetMs + Self.networkMs)
                late = try JSONDecoder().decode(Landing.self, from: answer)
                progress = try JSONDecoder().decode(Progress.self, from: answer)
                wait = progress.retryAfterMs ?? wait
            } catch {
                onError(error)
                guard Self.isTemporary(error) else { return }
                wait = (error as? FirstopenError)?.retryAfterMs ?? wait * 2
            }
        }
        if generation == turn && late != early { onLate(late) }
    }

    /// Sends one request, and throws if there is no answer within `timeoutMs`.
    private func call(_ path: String, _ timeoutMs: UInt64, _ body: Data? = nil) async throws -> Data {
        var request = URLRequest(url: baseURL.appendingPathComponent(path))
        request.httpMethod = body == nil ? "GET" : "POST"
        request.httpBody = body
        request.setValue("Bearer \(publishableKey)", forHTTPHeaderField: "Authorization")
        request.setValue("application/json", forHTTPHeaderField: "Content-Type")
        return try await withThrowingTaskGroup(of: Data.self) { [session, request] race in
            race.addTask { try await Self.send(request, session) }
            race.addTask {
                try await Task.sleep(nanoseconds: timeoutMs * 1_000_000)
                throw URLError(.timedOut)
            }
            defer { race.cancelAll() }
            guard let answer = try await race.next() else { throw URLError(.unknown) }
            return answer
        }
    }

    private static func send(_ request: URLRequest, _ session: URLSession) async throws -> Data {
        let (data, response) = try await session.data(for: request)
        guard let http = response as? HTTPURLResponse else { throw URLError(.badServerResponse) }
        guard http.statusCode == 200 || http.statusCode == 202 else {
            let seconds = http.value(forHTTPHeaderField: "Retry-After").flatMap { UInt64($0) }
            throw FirstopenError(status: http.statusCode, retryAfterMs: seconds.map { $0 * 1000 })
        }
        return data
    }

    /// Whether a request may succeed later: no answer at all, 429 or 5xx.
    private static func isTemporary(_ error: any Error) -> Bool {
        if let refused = error as? FirstopenError { return refused.status == 429 || refused.status >= 500 }
        return error is URLError
    }

    private func clipboard() async -> String? {
        do {
            // To look for a URL shows nothing; to read makes iOS ask, so it comes after the app's own question.
            guard let mayPaste, try await phone.clipboardHasURL(), await mayPaste() else { return nil }
            return await phone.readClipboard().flatMap { ownLink(in: $0, domains: domains) }
        } catch {
            onError(error)
            return nil
        }
    }

    /// Returns nil, and reports the error, if `work` fails.
    @discardableResult
    private func attempt<T>(_ work: () throws -> T) -> T? {
        do { return try work() } catch {
            onError(error)
            return nil
        }
    }
}
