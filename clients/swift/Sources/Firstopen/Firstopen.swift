import Foundation
import UIKit

/// Asks firstopen where this launch should land. Never throws; give it a launch screen that waits 2 s or longer.
struct FirstOpen: Sendable {
    struct Landing: Decodable, Sendable {
        struct Route: Decodable, Sendable {
            let screen: String
            let params: [String: String]
            let url: String?
        }
        let clickId: String?
        let route: Route
    }

    private struct Open: Encodable {
        var deepLink: String?
        var clipboard: String?
        var dubDomain: String?
        var installId: String
        var installedAt: Int?
        var platform = FirstOpen.platform
        var appVersion = Bundle.main.infoDictionary?["CFBundleShortVersionString"] as? String
        var budgetMs = 1500
    }

    private struct Progress: Decodable {
        let openId: String
        let pending: Bool
        let retryAfterMs: UInt64?
    }

    let baseURL: URL
    let publishableKey: String
    /// The app's short link domains, as they stand in a URL.
    let domains: [String]
    var home = Landing(clickId: nil, route: .init(screen: "home", params: [:], url: nil))
    /// Gets what failed, to log it; the launch goes on.
    let onError: @Sendable (any Error) -> Void
    /// Called at most once, after `landing`, if the click of this launch was found a little later.
    var onLate: @Sendable (Landing) -> Void = { _ in }

    /// `mayPaste` asks the person; it is called on a first launch only, and only if a URL seems to be on the clipboard.
    func landing(deepLink: URL? = nil, mayPaste: @Sendable () async -> Bool) async -> Landing {
        do {
            let folder = try Self.folder()
            let answered = folder.appendingPathComponent("answered")
            let first = !FileManager.default.fileExists(atPath: answered.path)
            guard first || deepLink != nil else { return home }
            var open = Open(dubDomain: domains.first, installId: try Self.installId(in: folder))
            open.deepLink = deepLink?.absoluteString
            open.installedAt = orNil { try Self.installedAt() }
            if first && deepLink == nil { open.clipboard = await clipboard(mayPaste) }
            let landing = try await report(open)
            orNil { try Data().write(to: answered) }
            return landing
        } catch {
            onError(error)
            return home  // and the next launch asks again: with the same installId that is safe
        }
    }

    private func report(_ open: Open) async throws -> Landing {
        let body = try JSONEncoder().encode(open)
        let answer = try await withThrowingTaskGroup(of: Data.self) { race in
            race.addTask { try await call("v1/opens", body) }
            race.addTask {
                try await Task.sleep(nanoseconds: 1_800_000_000)  // budgetMs, and a little for the network
                throw URLError(.timedOut)
            }
            defer { race.cancelAll() }
            guard let answer = try await race.next() else { throw URLError(.unknown) }
            return answer
        }
        let landing = try JSONDecoder().decode(Landing.self, from: answer)
        let progress = try JSONDecoder().decode(Progress.self, from: answer)
        if progress.pending, let wait = progress.retryAfterMs {
            Task { await askAgain(progress.openId, afterMs: wait, early: landing) }
        }
        return landing
    }

    /// Dub may show a click a few seconds late.
    private func askAgain(_ openId: String, afterMs wait: UInt64, early: Landing) async {
        do {
            try await Task.sleep(nanoseconds: wait * 1_000_000)
            let answer = try await call("v1/opens/\(openId)")
            let late = try JSONDecoder().decode(Landing.self, from: answer)
            if late.clickId != early.clickId { onLate(late) }
        } catch {
            onError(error)
        }
    }

    private func call(_ path: String, _ body: Data? = nil) async throws -> Data {
        var request = URLRequest(url: baseURL.appendingPathComponent(path))
        request.httpMethod = body == nil ? "GET" : "POST"
        request.httpBody = body
        request.setValue("Bearer \(publishableKey)", forHTTPHeaderField: "Authorization")
        request.setValue("application/json", forHTTPHeaderField: "Content-Type")
        let (data, response) = try await URLSession.shared.data(for: request)
        guard (response as? HTTPURLResponse)?.statusCode == 200 else { throw URLError(.badServerResponse) }
        return data
    }

    private func clipboard(_ mayPaste: @Sendable () async -> Bool) async -> String? {
        do {
            // Looking for a pattern shows nothing; reading makes iOS ask, so it comes after the app's own question.
            let found = try await UIPasteboard.general.detectedPatterns(for: [\.probableWebURL])
            guard found.contains(\.probableWebURL), await mayPaste() else { return nil }
            return UIPasteboard.general.string.flatMap { Self.ownLink(in: $0, domains: domains) }
        } catch {
            onError(error)
            return nil
        }
    }

    /// Returns the first URL in `text` whose host is one of `domains`.
    static func ownLink(in text: String, domains: [String]) -> String? {
        let hosts = domains.map(bareHost)
        var rest = text[...]
        while let found = rest.range(
            of: "https?://[a-z0-9._~:/?#@!$&*+,;=%-]+", options: [.regularExpression, .caseInsensitive]
        ) {
            var url = rest[found]
            while let last = url.last, ".,:;!?*".contains(last) { url.removeLast() }
            let parts = URLComponents(string: String(url))
            if let host = parts?.host, parts?.user == nil, hosts.contains(bareHost(host)), url.utf8.count <= 2048 {
                return String(url)
            }
            rest = rest[found.upperBound...]
        }
        return nil
    }

    private static func bareHost(_ host: String) -> String {
        let host = host.lowercased()
        return host.hasPrefix("www.") ? String(host.dropFirst(4)) : host
    }

    /// iOS makes the documents folder when it installs the app.
    private static func installedAt() throws -> Int {
        let documents = try FileManager.default
            .url(for: .documentDirectory, in: .userDomainMask, appropriateFor: nil, create: false)
        let attributes = try FileManager.default.attributesOfItem(atPath: documents.path)
        guard let created = attributes[.creationDate] as? Date else { throw CocoaError(.fileReadUnknown) }
        return Int(created.timeIntervalSince1970)
    }

    private static var platform: String? {
        #if os(iOS) && !targetEnvironment(macCatalyst)
            return "ios"
        #else
            return nil
        #endif
    }

    /// A folder that goes with the app and that no backup carries to a second phone, unlike UserDefaults.
    private static func folder() throws -> URL {
        var folder = try FileManager.default
            .url(for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            .appendingPathComponent("firstopen", isDirectory: true)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        var values = URLResourceValues()
        values.isExcludedFromBackup = true
        try folder.setResourceValues(values)
        return folder
    }

    private static func installId(in folder: URL) throws -> String {
        let file = folder.appendingPathComponent("install-id")
        if let known = try? String(contentsOf: file, encoding: .utf8) { return known }
        let fresh = UUID().uuidString
        try fresh.write(to: file, atomically: true, encoding: .utf8)
        return fresh
    }

    @discardableResult
    private func orNil<T>(_ work: () throws -> T) -> T? {
        do { return try work() } catch {
            onError(error)
            return nil
        }
    }
}
